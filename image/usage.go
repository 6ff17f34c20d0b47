package image

import "github.com/layerctl/layerctl/snapshot"

// Usage says what the store's bytes are for. All that Survey found is in one image, in Shared, in the active snapshots of containers, in
// Leftovers, or in Own.
type Usage struct {
	Images    []ImageUsage
	Shared    int64           // what several images have, once
	Leftovers []snapshot.Item // what no image and no container has; Held is what something in flight needs
	Own       int64           // rows, records and directories
}

// ImageUsage is what an image takes: Shared is what other images have, too, Unique what it alone has.
type ImageUsage struct {
	SurveyedImage
	Shared, Unique int64
}

// Size is what all images take.
func (u *Usage) Size() int64 {
	total := u.Shared
	for _, img := range u.Images {
		total += img.Unique
	}
	return total
}

// Usage sorts what was found. owned says of the key of an active snapshot that it is a container's, which is counted there.
func (v *Survey) Usage(owned func(key string) bool) *Usage {
	u := &Usage{Own: v.Own + v.Snapshots.Own}
	users := map[string][]int{} // of blobs and trees: which images need them
	for i, img := range v.Images {
		u.Images = append(u.Images, ImageUsage{SurveyedImage: img})
		need := map[string]bool{}
		for _, b := range img.Blobs {
			need[b] = true
		}
		for name := img.Chain; name != ""; name = v.Snapshots.Committed[name].Parent {
			need["layer "+v.Snapshots.Committed[name].Tree] = true
		}
		for what := range need {
			users[what] = append(users[what], i)
		}
	}
	// What no image needs is a leftover, in use where a plan that touches no image would not take it.
	free := map[string]bool{}
	for _, item := range v.Plan(PruneOptions{keepImages: true}).Items() {
		free[item.Path] = true
	}
	count := func(what string, item snapshot.Item) {
		switch needed := users[what]; len(needed) {
		case 0:
			item.Name, item.Held = what, !free[item.Path]
			u.Leftovers = append(u.Leftovers, item)
		case 1:
			u.Images[needed[0]].Unique += item.Size
		default:
			u.Shared += item.Size
			for _, i := range needed {
				u.Images[i].Shared += item.Size
			}
		}
	}
	for _, b := range v.Blobs {
		count(b.Name, b)
	}
	for _, t := range v.Snapshots.Trees {
		count("layer "+t.Name, t)
	}
	for _, a := range v.Snapshots.Actives {
		if a.Key == "" || !owned(a.Key) {
			count(a.Name, a.Item)
		}
	}
	for _, l := range append(v.Leftovers, v.Snapshots.Leftovers...) {
		count(l.Name, l)
	}
	return u
}
