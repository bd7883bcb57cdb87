package endpointtest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// TestReceiver runs the receiver's half of the suite. newPair makes, for each test,
// a fresh receiver and a sender whose streams it understands.
func TestReceiver(t *testing.T, newPair func(t *testing.T) (Sender, Receiver)) {
	tests := map[string]func(*testing.T, Sender, Receiver){
		"List":             receiverLists,
		"Receive":          receiverReceives,
		"BrokenStream":     receiverBroken,
		"Resume":           receiverResumes,
		"ClearResumeToken": receiverClears,
		"TruncatedStream":  receiverTruncated,
		"ForeignStream":    receiverForeign,
		"OtherVersion":     receiverOtherVersion,
		"MissingFrom":      receiverMissingFrom,
		"Refused":          receiverRefuses,
		"Busy":             receiverBusy,
		"StreamStaysOpen":  receiverLeavesOpen,
		"Context":          receiverContext,
		"Completion":       receiverCompletion,
		"DestroySnapshots": receiverDestroys,
	}
	for name, test := range tests {
		t.Run("Receiver/"+name, func(t *testing.T) {
			s, r := newPair(t)
			test(t, s, r)
		})
	}
}

func receiverLists(t *testing.T, s Sender, r Receiver) {
	if entries := listEntries(t, r); len(entries) != 0 {
		t.Errorf("a new receiver has %v", entries)
	}
	_, err := r.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "never/was"})
	wantErr(t, "ListFilesystemVersions of an unknown filesystem", err, endpoint.ErrNotFound)
	for _, path := range hostilePaths {
		_, err := r.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: path})
		wantRefused(t, "ListFilesystemVersions of "+path, err)
	}
	one := s.snapshot(t, "one")
	res, stream := s.send(t, s.request(nil, one))
	if err := receive(t.Context(), r, "parent/child", one, res, stream); err != nil {
		t.Fatalf("Receive: %v", err)
	}
	entries := listEntries(t, r)
	if !entries["parent"].GetIsPlaceholder() || entries["parent/child"].GetIsPlaceholder() {
		t.Errorf("after a receive into parent/child the list is %v", entries)
	}
}

func receiverReceives(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	replicate(t, s, r, nil, one)
	two := s.snapshot(t, "two")
	replicate(t, s, r, one, two)
	got := receivedSnapshots(t, r, s.Filesystem)
	if len(got) != 2 {
		t.Fatalf("the receiver has %v, want two snapshots", got)
	}
	for i, want := range []*pdu.FilesystemVersion{one, two} {
		if got[i].Name != want.Name || got[i].Guid != want.Guid {
			t.Errorf("snapshot %d is %v, want name and GUID of %v", i, got[i], want)
		}
	}
	if token := listEntries(t, r)[s.Filesystem].ResumeToken; token != "" {
		t.Errorf("a whole step leaves resume token %q behind", token)
	}
}

// breakAfter ends a stream with err after n bytes.
func breakAfter(stream io.Reader, n int64, err error) io.Reader {
	return io.MultiReader(io.LimitReader(stream, n), failing{err})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

var errBroken = errors.New("the stream broke")

// breakStep sends a full step whose stream breaks before its last byte.
func breakStep(t *testing.T, s Sender, r Receiver, to *pdu.FilesystemVersion) {
	t.Helper()
	whole := s.whole(t, s.request(nil, to))
	err := receive(t.Context(), r, s.Filesystem, to, nil, breakAfter(strings.NewReader(whole), int64(len(whole)-1), errBroken))
	wantErr(t, "Receive of a broken stream", err, errBroken)
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 0 {
		t.Fatalf("a broken step made %v", got)
	}
}

func receiverBroken(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	breakStep(t, s, r, one)
	replicate(t, s, r, nil, one)
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 1 {
		t.Errorf("the receiver has %v, want one snapshot", got)
	}
}

// token returns the resume token of a broken step; "" for a receiver that leaves none.
func token(t *testing.T, s Sender, r Receiver) string {
	t.Helper()
	token := listEntries(t, r)[s.Filesystem].GetResumeToken()
	if r.NoResume == (token != "") {
		t.Fatalf("after a broken step the resume token is %q", token)
	}
	return token
}

func receiverResumes(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	breakStep(t, s, r, one)
	req := s.request(nil, one)
	if req.ResumeToken = token(t, s, r); req.ResumeToken == "" {
		replicate(t, s, r, nil, one)
		return
	}
	for _, e := range []any{s.Sender, r.Receiver} {
		if reader, ok := e.(endpoint.TokenReader); ok {
			step, err := reader.ReadResumeToken(t.Context(), req.ResumeToken)
			if want := (endpoint.ResumeStep{ToGUID: one.Guid}); err != nil || step != want {
				t.Errorf("ReadResumeToken: %v, %v, want %v", step, err, want)
			}
		}
	}
	res, stream := s.send(t, req)
	if !res.GetUsedResumeToken() {
		t.Fatal("Send does not use the resume token")
	}
	if err := receive(t.Context(), r, s.Filesystem, one, res, stream); err != nil {
		t.Fatalf("Receive of the resumed step: %v", err)
	}
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 1 || got[0].Guid != one.Guid {
		t.Errorf("the receiver has %v, want %v", got, one)
	}
	replicate(t, s, r, one, s.snapshot(t, "two"))
}

func receiverClears(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	breakStep(t, s, r, one)
	token(t, s, r)
	two := s.snapshot(t, "two")
	replicate(t, s, r, nil, two)
	if fs := listEntries(t, r)[s.Filesystem]; fs.GetResumeToken() != "" {
		t.Errorf("after ClearResumeToken and another step the filesystem is %v", fs)
	}
}

func receiverTruncated(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	whole := s.whole(t, s.request(nil, one))
	for _, n := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
		if err := receive(t.Context(), r, s.Filesystem, one, nil, strings.NewReader(whole[:n])); err == nil {
			t.Errorf("Receive of %d bytes of %d succeeds", n, len(whole))
		}
	}
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 0 {
		t.Errorf("truncated streams made %v", got)
	}
}

func receiverForeign(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	for _, text := range []string{"hello", strings.Repeat("\x00", 1<<16), strings.Repeat("\xff", 1<<16)} {
		if err := receive(t.Context(), r, s.Filesystem, one, nil, strings.NewReader(text)); err == nil {
			t.Errorf("Receive of %d foreign bytes succeeds", len(text))
		}
	}
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 0 {
		t.Errorf("foreign streams made %v", got)
	}
}

func receiverOtherVersion(t *testing.T, s Sender, r Receiver) {
	one, two := s.snapshot(t, "one"), s.snapshot(t, "two")
	res, stream := s.send(t, s.request(nil, one))
	if err := receive(t.Context(), r, s.Filesystem, two, res, stream); err == nil {
		t.Error("Receive takes the stream of another version")
	}
	if got := receivedSnapshots(t, r, s.Filesystem); len(got) != 0 {
		t.Errorf("the stream of another version made %v", got)
	}
}

func receiverMissingFrom(t *testing.T, s Sender, r Receiver) {
	one, two := s.snapshot(t, "one"), s.snapshot(t, "two")
	res, stream := s.send(t, s.request(one, two))
	err := receive(t.Context(), r, s.Filesystem, two, res, stream)
	wantErr(t, "Receive of an incremental step without its From", err, endpoint.ErrFailedPrecondition)
}

func receiverRefuses(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	whole := s.whole(t, s.request(nil, one))
	bad := []*pdu.FilesystemVersion{
		nil,
		{Type: pdu.FilesystemVersion_Bookmark, Name: one.Name, Guid: one.Guid},
		{Name: one.Name},
		{Name: "", Guid: one.Guid},
		{Name: "../one", Guid: one.Guid},
		{Name: "a@b", Guid: one.Guid},
	}
	for _, to := range bad {
		err := receive(t.Context(), r, s.Filesystem, to, nil, strings.NewReader(whole))
		wantErr(t, "Receive of version "+to.String(), err, endpoint.ErrInvalid)
	}
	for _, path := range hostilePaths {
		err := receive(t.Context(), r, path, one, nil, strings.NewReader(whole))
		wantErr(t, "Receive into "+path, err, endpoint.ErrInvalid)
	}
	if entries := listEntries(t, r); len(entries) != 0 {
		t.Errorf("refused requests made %v", entries)
	}
}

// gate is a stream whose first Read waits until it is opened.
type gate struct {
	io.Reader
	reached chan struct{} // closed by the first Read
	open    chan struct{}
	waited  bool
}

func (g *gate) Read(p []byte) (int, error) {
	if !g.waited {
		g.waited = true
		close(g.reached)
		<-g.open
	}
	return g.Reader.Read(p)
}

func receiverBusy(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	whole := s.whole(t, s.request(nil, one))
	rest := strings.NewReader(whole)
	g := &gate{Reader: rest, reached: make(chan struct{}), open: make(chan struct{})}
	begun := io.MultiReader(io.LimitReader(rest, 256), g) // a receiver may look at the start first
	first := make(chan error, 1)
	go func() { first <- receive(t.Context(), r, s.Filesystem, one, nil, begun) }()
	select {
	case <-g.reached:
	case err := <-first:
		t.Fatalf("Receive ends without reading its stream: %v", err)
	}
	second := receive(t.Context(), r, s.Filesystem, one, nil, strings.NewReader(whole))
	wantErr(t, "a second Receive", second, endpoint.ErrBusy)
	close(g.open)
	if err := <-first; err != nil {
		t.Errorf("the first Receive: %v", err)
	}
}

type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error {
	c.closed = true
	return nil
}

func receiverLeavesOpen(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	res, stream := s.send(t, s.request(nil, one))
	rec := &closeRecorder{Reader: stream}
	if err := receive(t.Context(), r, s.Filesystem, one, res, rec); err != nil {
		t.Fatalf("Receive: %v", err)
	}
	if rec.closed {
		t.Error("Receive closes the stream, which is its caller's")
	}
	if n, err := stream.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after Receive the stream gives %d bytes, %v, want io.EOF", n, err)
	}
}

// untilDone is a stream that gives nothing until ctx ends, as a connection does.
type untilDone struct{ ctx context.Context }

func (u untilDone) Read([]byte) (int, error) {
	<-u.ctx.Done()
	return 0, context.Cause(u.ctx)
}

func receiverContext(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	ctx, cancel := context.WithCancel(t.Context())
	res, stream := s.send(t, s.request(nil, one))
	done := make(chan error, 1)
	go func() {
		done <- receive(ctx, r, s.Filesystem, one, res, io.MultiReader(io.LimitReader(stream, 1), untilDone{ctx}))
	}()
	cancel()
	wantErr(t, "Receive whose context ends", <-done, context.Canceled)
	stream.Close()

	_, err := r.ListFilesystems(cancelled(t), &pdu.ListFilesystemReq{})
	wantErr(t, "ListFilesystems", err, context.Canceled)
	replicate(t, s, r, nil, one)
}

func receiverCompletion(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	replicate(t, s, r, nil, one)
	if _, err := r.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: s.request(nil, one)}); err != nil {
		t.Errorf("SendCompleted: %v", err)
	}
	_, err := r.ReplicationCursor(t.Context(), &pdu.ReplicationCursorReq{Filesystem: s.Filesystem})
	wantErr(t, "ReplicationCursor", err, endpoint.ErrUnimplemented)
}

func receiverDestroys(t *testing.T, s Sender, r Receiver) {
	one := s.snapshot(t, "one")
	replicate(t, s, r, nil, one)
	replicate(t, s, r, one, s.snapshot(t, "two"))
	testDestroy(t, r, s.Filesystem, receivedSnapshots(t, r, s.Filesystem))
}
