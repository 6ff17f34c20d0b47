// Package spec turns what an image wishes and what a user asks for into an OCI runtime spec, with Docker's defaults.
package spec
