package main

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/snapshot"
)

// completions makes the arguments of all commands complete to what is in the store. What an argument is, is said once, by the command's
// line of use: IMAGE, REF, CONTAINER, NAME, X, IMAGE:PATH, DEST, PATH (in the image before it). Anything else is a file, or nothing. Behind
// IMAGE# come the numbers of its layers. A flag's value is what its usage calls it in backquotes.
func (a *app) completions(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		a.completions(cmd)
		if words := argumentsOf(cmd.Use); len(words) > 0 && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
				word := words[min(len(args), len(words)-1)]
				if len(args) >= len(words) && !strings.HasSuffix(word, "...") {
					return nil, cobra.ShellCompDirectiveNoFileComp
				}
				return a.complete(cmd, word, args, typed)
			}
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if name, _ := pflag.UnquoteUsage(f); name == "image" || name == "container" {
				cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
					return a.complete(cmd, strings.ToUpper(name), args, typed)
				})
			}
		})
	}
}

// argumentsOf are the arguments in a line of use: "rmi [flags] IMAGE..." has one.
func argumentsOf(use string) []string {
	use, _, _ = strings.Cut(use, "\n")
	var words []string
	fields := strings.Fields(use)
	for i, w := range fields {
		w = strings.Trim(w, "[]")
		if i == 0 || w == "flags" || strings.HasPrefix(w, "--") || strings.Contains("|"+fields[i-1], "|--") {
			continue // a flag, or its value
		}
		w, _, _ = strings.Cut(w, "|--")
		words = append(words, w)
	}
	return words
}

// complete finds what an argument that is called word may be, of which some is typed.
func (a *app) complete(cmd *cobra.Command, word string, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	kinds := strings.Split(strings.TrimSuffix(strings.ReplaceAll(word, "...", ""), "|"), "|")
	is := func(names ...string) bool {
		return slices.ContainsFunc(kinds, func(k string) bool { return slices.Contains(names, strings.TrimRight(k, "0123456789")) })
	}
	var list []string
	how := cobra.ShellCompDirectiveNoFileComp
	if a.Resolve() != nil || !exists(filepath.Join(a.Root, "format")) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	images, snaps, containers, err := a.stores()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if is("PATH", "COMMAND") && len(args) > 0 && (strings.HasPrefix(typed, "/") || is("PATH")) {
		return pathsIn(imageDirs(cmd, images, snaps, args[0]), "", typed)
	}
	if of, _, ok := strings.Cut(typed, "#"); ok && is("IMAGE", "NAME", "X", "Y") {
		if img, err := images.Resolve(cmd.Context(), of); err == nil {
			for n := range img.Layers {
				list = append(list, of+"#"+strconv.Itoa(n+1))
			}
		}
		return slices.DeleteFunc(list, func(s string) bool { return !strings.HasPrefix(s, typed) }), how
	}
	if is("IMAGE:PATH", "CONTAINER:PATH") {
		// A digit behind the colon is rather a tag's: a path begins with a slash.
		if of, name, ok := strings.Cut(typed, ":/"); ok {
			var dirs []string
			if c, err := containers.Lookup(cmd.Context(), of); err == nil && is("CONTAINER:PATH") {
				upper, lowers, err := containers.Dirs(cmd.Context(), c)
				if err == nil {
					dirs = append([]string{upper}, lowers...)
				}
			} else if is("IMAGE:PATH") {
				dirs = imageDirs(cmd, images, snaps, of)
			}
			return pathsIn(dirs, of+":", "/"+name)
		}
	}
	if is("IMAGE", "REF", "NAME", "X", "Y", "IMAGE:PATH") {
		found, err := images.List(cmd.Context())
		if err == nil {
			list = append(list, imageNames(found, typed)...)
		}
	}
	if is("CONTAINER", "NAME", "X", "Y", "CONTAINER:PATH", "DEST") {
		found, err := containers.List(cmd.Context(), true)
		if err == nil {
			for _, c := range found {
				list = append(list, c.Config.Name)
				if len(typed) > 1 && strings.HasPrefix(c.ID, typed) {
					list = append(list, shortID(c.ID, false))
				}
			}
		}
	}
	list = slices.DeleteFunc(list, func(s string) bool { return !strings.HasPrefix(s, typed) })
	if is("IMAGE:PATH", "CONTAINER:PATH", "DEST") && len(list) > 0 {
		how |= cobra.ShellCompDirectiveNoSpace
		for i := range list {
			list[i] += ":"
		}
	}
	if len(list) == 0 || is("X", "Y", "SRC", "DEST", "SOURCE", "DIR", "FILE") {
		how &^= cobra.ShellCompDirectiveNoFileComp
	}
	return list, how
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// imageNames are the names of images as short as they may be typed, and the ID that begins with what is typed.
func imageNames(found []image.Image, typed string) []string {
	var list []string
	for _, img := range found {
		if id := strings.TrimPrefix(img.ID, "sha256:"); len(typed) > 1 && strings.HasPrefix(id, typed) {
			list = append(list, id[:max(12, len(typed))])
		}
		ref, err := reference.Parse(img.Name)
		if err != nil {
			continue
		}
		name := ref.FamiliarName()
		if !strings.HasPrefix(typed, "localhost/") {
			name = strings.TrimPrefix(name, "localhost/")
		}
		if ref.Digest != "" {
			name += "@" + ref.Digest
		} else if ref.Tag != "latest" || strings.Contains(typed, ":") {
			name += ":" + ref.Tag
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// imageDirs are the trees of an image, highest first; none where there is no such image.
func imageDirs(cmd *cobra.Command, images *image.Store, snaps *snapshot.Store, ref string) []string {
	img, err := images.Resolve(cmd.Context(), ref)
	if err != nil {
		return nil
	}
	trees, err := snaps.Chain(cmd.Context(), img.Chain)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, t := range slices.Backward(trees) {
		dirs = append(dirs, filepath.Join(t.Dir, "fs"))
	}
	return dirs
}

// pathsIn are the paths in stacked trees that go on from what is typed: one directory is read, of the merged view. A name that a terminal
// would obey is not offered.
func pathsIn(dirs []string, prefix, typed string) ([]string, cobra.ShellCompDirective) {
	const how = cobra.ShellCompDirectiveNoFileComp
	stack, err := snapshot.OpenStack(dirs)
	if err != nil {
		return nil, how
	}
	defer stack.Close()
	dir, begun := path.Split(typed)
	d := stack.Root()
	for _, part := range strings.Split(dir, "/") {
		if part == "" {
			continue
		}
		sub, err := d.Enter(part)
		if err != nil {
			return nil, how
		}
		defer sub.Close()
		d = sub
	}
	names, err := d.Names()
	if err != nil {
		return nil, how
	}
	var list []string
	nested := false
	for _, name := range names {
		if !strings.HasPrefix(name, begun) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufffd' }) {
			continue
		}
		if sub, err := d.Enter(name); err == nil {
			sub.Close()
			name, nested = name+"/", true
		}
		list = append(list, prefix+dir+name)
	}
	slices.Sort(list)
	if nested {
		return list, how | cobra.ShellCompDirectiveNoSpace
	}
	return list, how
}
