// Package diff says what is in views of layers, and what one view changes in another.
//
// A view is a Stack of layers, and a layer is a tree with an index (package image/layer), an overlay's upper, or any directory: the last
// two are walked. Layers are read side by side, in one order, and nothing but where each of them stands is in memory. Of two views that
// have the lowest layers in common, Compare reads in those only what the other layers touch; it costs what differs.
//
// Upper is what docker diff shows of a container. It reads the upper alone and looks each of its names up below; the layers themselves
// are never walked. The one exception is a directory that was removed and made again: overlayfs marks it opaque, and what it hides is
// found by listing that directory below.
package diff
