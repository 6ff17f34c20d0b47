// Package diff says what an overlay's upper changes in the layers below it.
//
// It reads the upper alone and looks each of its names up below; the layers themselves are never walked. The one exception is a
// directory that was removed and made again: overlayfs marks it opaque, and what it hides is found by listing that directory below.
package diff
