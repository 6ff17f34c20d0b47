package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/layerctl/layerctl/snapshot"
)

// Configure makes an image of another one's layers with other settings, and calls it ref. changes are Dockerfile instructions; each is a
// step of the new image's history that adds no layer. The layers, their trees and their blobs are shared.
func (s *Store) Configure(ctx context.Context, of, ref string, instructions []string) (Image, error) {
	img, err := s.configure(ctx, of, ref, instructions)
	if err != nil {
		return Image{}, fmt.Errorf("config %s: %w", of, err)
	}
	return img, nil
}

func (s *Store) configure(ctx context.Context, of, name string, instructions []string) (Image, error) {
	var lease snapshot.Lease
	defer lease.Close()
	_, c, err := s.deriveAs(ctx, &lease, "config", of, name)
	if err != nil {
		return Image{}, err
	}
	if err := changes(&c.config.Config, instructions); err != nil {
		return Image{}, err
	}
	for _, instruction := range instructions {
		if err := c.step(strings.TrimSpace(instruction), "layerctl config", true); err != nil {
			return Image{}, err
		}
	}
	return s.compose(ctx, &lease, c)
}
