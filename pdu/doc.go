// Package pdu holds the messages that cross the wire and the gRPC service of the
// control channel. replication.proto is the source; everything else is generated
// from it (make generate).
package pdu

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
