// Package fleet is an endpoint with many filesystems and versions that hold nothing:
// what planning and listing at scale are measured with.
package fleet

import (
	"context"
	"fmt"
	"io"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// Fleet is a sender and a receiver.
type Fleet struct {
	Filesystems int
	Versions    int // of each filesystem
}

var (
	_ endpoint.Sender   = Fleet{}
	_ endpoint.Receiver = Fleet{}
)

// ListFilesystems implements endpoint.Endpoint.
func (f Fleet) ListFilesystems(context.Context, *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	res := &pdu.ListFilesystemRes{}
	for i := range f.Filesystems {
		res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: fmt.Sprintf("tank/data/fs%06d", i)})
	}
	return res, nil
}

// ListFilesystemVersions implements endpoint.Endpoint.
func (f Fleet) ListFilesystemVersions(context.Context, *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	res := &pdu.ListFilesystemVersionsRes{Versions: make([]*pdu.FilesystemVersion, f.Versions)}
	for i := range res.Versions {
		number := uint64(i + 1)
		res.Versions[i] = &pdu.FilesystemVersion{
			Name: fmt.Sprintf("dr_20260101_%06d_000", i), Guid: number << 20, CreateTXG: number, Creation: "2026-01-01T00:00:00Z",
		}
	}
	return res, nil
}

// DestroySnapshots implements endpoint.Endpoint.
func (Fleet) DestroySnapshots(context.Context, *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	return nil, endpoint.ErrUnimplemented
}

// SendCompleted implements endpoint.Endpoint.
func (Fleet) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, nil
}

// ReplicationCursor implements endpoint.Endpoint.
func (Fleet) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return nil, endpoint.ErrUnimplemented
}

// SendDry implements endpoint.Sender.
func (Fleet) SendDry(context.Context, *pdu.SendReq) (*pdu.SendRes, error) { return &pdu.SendRes{}, nil }

// Send implements endpoint.Sender.
func (Fleet) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	return nil, nil, endpoint.ErrUnimplemented
}

// Receive implements endpoint.Receiver.
func (Fleet) Receive(context.Context, *pdu.ReceiveReq, io.Reader) (*pdu.ReceiveRes, error) {
	return nil, endpoint.ErrUnimplemented
}
