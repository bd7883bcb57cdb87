// Package certs makes a small certificate authority for trying mutual TLS out: in
// the quickstart, and in tests. It is no tool to run an authority with.
package certs
