package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// notebook is a sender of our own. Its one filesystem is "notes"; each line is a
// version, and a step carries the lines after From, up to To.
type notebook []string

var _ endpoint.Sender = notebook(nil)

func (n notebook) ListFilesystems(context.Context, *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return &pdu.ListFilesystemRes{Filesystems: []*pdu.Filesystem{{Path: "notes"}}}, nil
}

func (n notebook) ListFilesystemVersions(_ context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	if req.Filesystem != "notes" {
		return nil, endpoint.ErrNotFound
	}
	res := &pdu.ListFilesystemVersionsRes{}
	for i := range n {
		number := uint64(i + 1) // identifies the version, and orders it
		res.Versions = append(res.Versions, &pdu.FilesystemVersion{
			Name: fmt.Sprint("note-", number), Guid: number, CreateTXG: number, Creation: "2026-01-01T00:00:00Z",
		})
	}
	return res, nil
}

func (n notebook) Send(_ context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	from, to := req.From.GetGuid(), req.To.GetGuid() // a full step is from 0
	switch {
	case req.ResumeToken != "":
		return nil, nil, endpoint.ErrStaleToken // we make none
	case req.Filesystem != "notes" || to == 0 || to > uint64(len(n)):
		return nil, nil, endpoint.ErrNotFound
	case from >= to:
		return nil, nil, fmt.Errorf("%w: From is not older than To", endpoint.ErrInvalid)
	}
	text := strings.Join(n[from:to], "\n") + "\n"
	return &pdu.SendRes{ExpectedSize: uint64(len(text))}, io.NopCloser(strings.NewReader(text)), nil
}

func (n notebook) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	res, _, err := n.Send(ctx, req)
	return res, err
}

func (n notebook) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, nil // we keep no cursor
}

func (n notebook) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, nil
}

func (n notebook) DestroySnapshots(context.Context, *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	return nil, endpoint.ErrUnimplemented
}
