// Package network makes the network namespaces of containers: one with a loopback interface, and nothing else in it.
package network
