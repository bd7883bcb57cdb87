package endpointtest

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// TestSender runs the sender's half of the suite. newSender makes a fresh sender
// for each test.
func TestSender(t *testing.T, newSender func(t *testing.T) Sender) {
	tests := map[string]func(*testing.T, Sender){
		"List":               senderLists,
		"ListUnknown":        senderListsUnknown,
		"SendFull":           senderSendsFull,
		"SendIncremental":    senderSendsIncremental,
		"SendRefused":        senderRefuses,
		"SendStaleToken":     senderRefusesTokens,
		"SendClosedEarly":    senderClosedEarly,
		"SendContext":        senderContext,
		"SendConcurrently":   senderConcurrently,
		"ReplicationCursor":  senderCursor,
		"CursorOutlivesData": senderCursorOutlives,
		"DestroySnapshots":   senderDestroys,
		"Context":            senderEndedContext,
	}
	for name, test := range tests {
		t.Run("Sender/"+name, func(t *testing.T) { test(t, newSender(t)) })
	}
}

func senderLists(t *testing.T, s Sender) {
	fs := listEntries(t, s)[s.Filesystem]
	if fs == nil || fs.IsPlaceholder {
		t.Fatalf("filesystem %q is listed as %v", s.Filesystem, fs)
	}
	if n := len(listVersions(t, s, s.Filesystem)); n != 0 {
		t.Errorf("a new filesystem has %d versions", n)
	}
	one, two := s.snapshot(t, "one"), s.snapshot(t, "two")
	if one.CreateTXG >= two.CreateTXG || one.Guid == two.Guid {
		t.Errorf("snapshots made one after another are %v and %v", one, two)
	}
}

func senderListsUnknown(t *testing.T, s Sender) {
	_, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "never/was"})
	wantErr(t, "ListFilesystemVersions of an unknown filesystem", err, endpoint.ErrNotFound)
	for _, path := range hostilePaths {
		_, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: path})
		wantRefused(t, "ListFilesystemVersions of "+path, err)
	}
}

func senderSendsFull(t *testing.T, s Sender) {
	req := s.request(nil, s.snapshot(t, "one"))
	dry, err := s.SendDry(t.Context(), req)
	if err != nil || dry.GetUsedResumeToken() {
		t.Fatalf("SendDry: %v, %v", dry, err)
	}
	res, stream := s.send(t, req)
	if res.GetUsedResumeToken() {
		t.Error("Send used a resume token that was not there")
	}
	if n, err := io.Copy(io.Discard, stream); err != nil || n == 0 {
		t.Errorf("the stream has %d bytes, %v", n, err)
	}
	if err := stream.Close(); err != nil {
		t.Errorf("Close after io.EOF: %v", err)
	}
}

func senderSendsIncremental(t *testing.T, s Sender) {
	from := s.snapshot(t, "one")
	req := s.request(from, s.snapshot(t, "two"))
	if _, err := s.SendDry(t.Context(), req); err != nil {
		t.Errorf("SendDry: %v", err)
	}
	_, stream := s.send(t, req)
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("read the stream: %v", err)
	}
}

func senderRefuses(t *testing.T, s Sender) {
	one, two := s.snapshot(t, "one"), s.snapshot(t, "two")
	gone := &pdu.FilesystemVersion{Name: "never-was", Guid: 4711, CreateTXG: one.CreateTXG}
	unknown := s.request(nil, one)
	unknown.Filesystem = "never/was"
	tests := []struct {
		name string
		req  *pdu.SendReq
		want error
	}{
		{"no To", s.request(nil, nil), endpoint.ErrInvalid},
		{"To is a bookmark", s.request(nil, &pdu.FilesystemVersion{Type: pdu.FilesystemVersion_Bookmark, Name: one.Name, Guid: one.Guid}), endpoint.ErrInvalid},
		{"unknown To", s.request(nil, gone), endpoint.ErrNotFound},
		{"unknown From", s.request(gone, two), endpoint.ErrNotFound},
		{"From is newer than To", s.request(two, one), endpoint.ErrInvalid},
		{"unknown filesystem", unknown, endpoint.ErrNotFound},
	}
	for _, tt := range tests {
		_, err := s.SendDry(t.Context(), tt.req)
		wantErr(t, "SendDry, "+tt.name, err, tt.want)
		_, stream, err := s.Send(t.Context(), tt.req)
		wantErr(t, "Send, "+tt.name, err, tt.want)
		closeStream(stream)
	}
	for _, path := range hostilePaths {
		req := s.request(nil, one)
		req.Filesystem = path
		_, stream, err := s.Send(t.Context(), req)
		wantRefused(t, "Send of "+path, err)
		closeStream(stream)
	}
}

func closeStream(stream io.Closer) {
	if stream != nil {
		stream.Close()
	}
}

func senderRefusesTokens(t *testing.T, s Sender) {
	req := s.request(nil, s.snapshot(t, "one"))
	for _, token := range []string{"x", "dr1.", "dr1.AAAA", "1-c740b4779-d0-789c\x00", "\xff"} {
		req.ResumeToken = token
		_, stream, err := s.Send(t.Context(), req)
		wantErr(t, "Send with token "+token, err, endpoint.ErrStaleToken)
		closeStream(stream)
		if reader, ok := s.Sender.(endpoint.TokenReader); ok {
			_, err := reader.ReadResumeToken(t.Context(), token)
			wantErr(t, "ReadResumeToken of "+token, err, endpoint.ErrStaleToken)
		}
	}
}

func senderClosedEarly(t *testing.T, s Sender) {
	req := s.request(nil, s.snapshot(t, "one"))
	_, stream := s.send(t, req)
	if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
		t.Fatalf("read the first byte: %v", err)
	}
	stream.Close()
	if _, err := io.Copy(io.Discard, stream); err == nil {
		t.Error("reading on after an early Close gives io.EOF, as if the stream were whole")
	}
	_, stream = s.send(t, req)
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the next Send of the same step: %v", err)
	}
}

func senderContext(t *testing.T, s Sender) {
	ctx, cancel := context.WithCancel(t.Context())
	_, stream, err := s.Send(ctx, s.request(nil, s.snapshot(t, "one")))
	if err != nil {
		t.Fatalf("Send: %v", err)
	}
	defer stream.Close()
	cancel()
	// What was buffered may still come; the stream must come to an end.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		wantErr(t, "read after the context ended", err, context.Canceled)
	}
}

func senderConcurrently(t *testing.T, s Sender) {
	req := s.request(nil, s.snapshot(t, "one"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, stream, err := s.Send(t.Context(), req)
			if err != nil {
				t.Errorf("Send: %v", err)
				return
			}
			defer stream.Close()
			if _, err := io.Copy(io.Discard, stream); err != nil {
				t.Errorf("read the stream: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := s.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); err != nil {
				t.Errorf("ListFilesystems: %v", err)
			}
		})
	}
	wg.Wait()
}

func senderCursor(t *testing.T, s Sender) {
	from := s.snapshot(t, "one")
	if res := cursor(t, s); !res.GetNotexist() {
		t.Errorf("ReplicationCursor before any step: %v", res)
	}
	complete(t, s, s.request(nil, from))
	if res := cursor(t, s); res.GetGuid() != from.Guid {
		t.Errorf("ReplicationCursor is %v, want GUID %d", res, from.Guid)
	}
	to := s.snapshot(t, "two")
	complete(t, s, s.request(from, to))
	if res := cursor(t, s); res.GetGuid() != to.Guid {
		t.Errorf("ReplicationCursor is %v, want GUID %d", res, to.Guid)
	}
	_, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{})
	wantRefused(t, "SendCompleted without a request", err)
	_, err = s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: s.request(nil, nil)})
	wantErr(t, "SendCompleted without To", err, endpoint.ErrInvalid)
	_, err = s.ReplicationCursor(t.Context(), &pdu.ReplicationCursorReq{Filesystem: "never/was"})
	wantErr(t, "ReplicationCursor of an unknown filesystem", err, endpoint.ErrNotFound)
}

func cursor(t *testing.T, s Sender) *pdu.ReplicationCursorRes {
	t.Helper()
	res, err := s.ReplicationCursor(t.Context(), &pdu.ReplicationCursorReq{Filesystem: s.Filesystem})
	if err != nil {
		t.Fatalf("ReplicationCursor: %v", err)
	}
	return res
}

func complete(t *testing.T, s Sender, req *pdu.SendReq) {
	t.Helper()
	if _, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: req}); err != nil {
		t.Fatalf("SendCompleted: %v", err)
	}
}

// senderCursorOutlives holds for senders whose cursor is listed as a bookmark.
func senderCursorOutlives(t *testing.T, s Sender) {
	one := s.snapshot(t, "one")
	complete(t, s, s.request(nil, one))
	var mark *pdu.FilesystemVersion
	for _, v := range listVersions(t, s, s.Filesystem) {
		if v.Type == pdu.FilesystemVersion_Bookmark && v.Guid == one.Guid {
			mark = v
		}
	}
	if mark == nil {
		return // its cursor holds the snapshot itself, or is of no use for a step
	}
	two := s.snapshot(t, "two")
	destroy(t, s, s.Filesystem, one)
	_, stream := s.send(t, s.request(mark, two))
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("read a stream from a bookmark: %v", err)
	}
}

func destroy(t *testing.T, e endpoint.Endpoint, path string, v *pdu.FilesystemVersion) {
	t.Helper()
	res, err := e.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: path, Snapshots: []*pdu.FilesystemVersion{v}})
	if err != nil || len(res.GetResults()) != 1 || res.Results[0].GetError() != "" {
		t.Fatalf("DestroySnapshots(%v): %v, %v", v, res, err)
	}
}

func senderDestroys(t *testing.T, s Sender) {
	s.snapshot(t, "one")
	s.snapshot(t, "two")
	testDestroy(t, s, s.Filesystem, listSnapshots(t, s, s.Filesystem))
}

func senderEndedContext(t *testing.T, s Sender) {
	req := s.request(nil, s.snapshot(t, "one"))
	ctx := cancelled(t)
	_, err := s.ListFilesystems(ctx, &pdu.ListFilesystemReq{})
	wantErr(t, "ListFilesystems", err, context.Canceled)
	_, err = s.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: s.Filesystem})
	wantErr(t, "ListFilesystemVersions", err, context.Canceled)
	_, err = s.SendDry(ctx, req)
	wantErr(t, "SendDry", err, context.Canceled)
	_, stream, err := s.Send(ctx, req)
	wantErr(t, "Send", err, context.Canceled)
	closeStream(stream)
}
