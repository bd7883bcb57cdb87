package zfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

const (
	resumability = pdu.ReplicationGuaranteeKind_GuaranteeResumability
	incremental  = pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication
	nothing      = pdu.ReplicationGuaranteeKind_GuaranteeNothing
)

// request is the request for a step; from nil is a full one.
func request(fs string, kind pdu.ReplicationGuaranteeKind, from, to *pdu.FilesystemVersion) *pdu.SendReq {
	return &pdu.SendReq{Filesystem: fs, From: from, To: to, ReplicationConfig: &pdu.ReplicationConfig{
		Protection: &pdu.ReplicationConfigProtection{Initial: kind, Incremental: kind},
	}}
}

func TestSendArgs(t *testing.T) {
	from, to := &version{name: "1"}, version{name: "2"}
	tests := []struct {
		name string
		opts SenderOptions
		st   step
		want string
	}{
		{"full", SenderOptions{}, step{fs: "a/b", to: to}, "send a/b@2"},
		{"incremental", SenderOptions{}, step{fs: "a/b", from: from, to: to}, "send -i a/b@1 a/b@2"},
		{"from bookmark", SenderOptions{}, step{fs: "a/b", from: &version{name: "1", bookmark: true}, to: to}, "send -i a/b#1 a/b@2"},
		{"encrypted", SenderOptions{Encrypted: true}, step{fs: "a/b", to: to}, "send -w a/b@2"},
		{"all", SenderOptions{Raw: true, Properties: true, BackupProperties: true, LargeBlocks: true, Compressed: true, EmbeddedData: true, Saved: true},
			step{fs: "a/b", to: to}, "send -w -p -b -L -c -e -S a/b@2"},
		{"token", SenderOptions{Raw: true, Properties: true}, step{fs: "a/b", from: from, to: to, token: "1-x"}, "send -t 1-x"},
	}
	for _, tt := range tests {
		s := &Sender{opts: tt.opts}
		if got := strings.Join(s.sendArgs(&tt.st), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestNewSender(t *testing.T) {
	if _, err := NewSender(SenderOptions{}); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("without a job: %v", err)
	}
	if _, err := NewSender(SenderOptions{Job: "j", Saved: true}); err != nil {
		t.Error(err)
	}
}

// scripted is a sender of a zfs that knows a/b with the snapshots 1 and 2, and writes its
// arguments to the file that is returned.
func scripted(t *testing.T, opts SenderOptions, more string) (*Sender, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	p := fake(t, `echo "$*" >>`+log+`
case "$1" in
list) printf 'a/b@1\t1\t1\t1\t0\na/b@2\t2\t2\t2\t0\n' ;;
get) printf 'a/b\treceive_resume_token\t-\t-\na/b\tencryption\tdefault\toff\na/b\tzrepl:placeholder\t-\t-\nc\tencryption\t-\toff\n' ;;
esac
`+more)
	opts.Program, opts.Job = p.path, "j"
	s, err := NewSender(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

var snapshot1, snapshot2 = &pdu.FilesystemVersion{Name: "1", Guid: 1}, &pdu.FilesystemVersion{Name: "2", Guid: 2}

// TestSenderRefuses: nothing is done to the pool for a request that is refused.
func TestSenderRefuses(t *testing.T) {
	tests := []struct {
		name string
		opts SenderOptions
		req  *pdu.SendReq
		want error
	}{
		{"nothing", SenderOptions{}, nil, endpoint.ErrInvalid},
		{"no configuration", SenderOptions{}, &pdu.SendReq{Filesystem: "a/b", To: snapshot1}, endpoint.ErrInvalid},
		{"no guarantee", SenderOptions{}, request("a/b", 0, nil, snapshot1), endpoint.ErrInvalid},
		{"unknown guarantee", SenderOptions{}, request("a/b", 99, nil, snapshot1), endpoint.ErrInvalid},
		{"no To", SenderOptions{}, request("a/b", nothing, nil, nil), endpoint.ErrInvalid},
		{"option as a filesystem", SenderOptions{}, request("-r", nothing, nil, snapshot1), endpoint.ErrInvalid},
		{"not in the filter", SenderOptions{Filter: func(string) bool { return false }}, request("a/b", nothing, nil, snapshot1), endpoint.ErrNotFound},
		{"other GUID", SenderOptions{}, request("a/b", nothing, nil, &pdu.FilesystemVersion{Name: "1", Guid: 9}), endpoint.ErrNotFound},
		{"not encrypted", SenderOptions{Encrypted: true}, request("a/b", nothing, nil, snapshot1), endpoint.ErrFailedPrecondition},
		{"other kind of streams", SenderOptions{}, withKinds(request("a/b", nothing, nil, snapshot1), "dir"), endpoint.ErrInvalid},
	}
	for _, tt := range tests {
		s, log := scripted(t, tt.opts, "")
		if _, _, err := s.Send(t.Context(), tt.req); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		for line := range strings.Lines(logged(log)) {
			if !strings.HasPrefix(line, "list ") && !strings.HasPrefix(line, "get ") {
				t.Errorf("%s: zfs %s", tt.name, line)
			}
		}
		if len(s.sending) != 0 {
			t.Errorf("%s: %v stay claimed", tt.name, s.sending)
		}
	}
}

func withKinds(req *pdu.SendReq, kinds ...string) *pdu.SendReq {
	req.StreamKinds = kinds
	return req
}

func logged(path string) string {
	text, _ := os.ReadFile(path) // none: nothing was run
	return string(text)
}

// TestSendFails: a zfs that fails after it has sent something never looks like success.
func TestSendFails(t *testing.T) {
	s, _ := scripted(t, SenderOptions{}, `[ "$1" != send ] || { echo data; echo "warning: cannot send: I/O error" >&2; exit 1; }`)
	_, stream, err := s.Send(t.Context(), request("a/b", nothing, nil, snapshot1))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	if string(data) != "data\n" || !errors.As(err, new(*CommandError)) || !strings.Contains(err.Error(), "I/O error") {
		t.Errorf("stream is %q, %v", data, err)
	}
}

// TestSendBusy: one step of a filesystem at a time, but that one again.
func TestSendBusy(t *testing.T) {
	s, _ := scripted(t, SenderOptions{}, `[ "$1" != send ] || exec sleep 600`)
	req, other := request("a/b", nothing, snapshot1, snapshot2), request("a/b", nothing, nil, snapshot2)
	var streams []io.ReadCloser
	for range 2 {
		_, stream, err := s.Send(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	for _, stream := range streams {
		for _, busy := range []*pdu.SendReq{other, request("a/b", incremental, snapshot1, snapshot2)} {
			if _, _, err := s.Send(t.Context(), busy); !errors.Is(err, endpoint.ErrBusy) {
				t.Errorf("another step: %v", err)
			}
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		if _, err := stream.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("Read after Close: %v", err)
		}
	}
	_, stream, err := s.Send(t.Context(), other)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	stream.Close()
}

// TestSendCompletedBusy: a completion that comes late removes nothing from the step after it.
func TestSendCompletedBusy(t *testing.T) {
	s, log := scripted(t, SenderOptions{}, `[ "$1" != send ] || exec sleep 600`)
	req, before := request("a/b", resumability, snapshot1, snapshot2), request("a/b", resumability, nil, snapshot1)
	_, stream, err := s.Send(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: before}); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("the step before: %v", err)
	}
	if all := logged(log); strings.Contains(all, "\nbookmark ") || strings.Contains(all, "\nrelease ") {
		t.Errorf("zfs does %s", all)
	}
	if _, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: req}); err != nil {
		t.Errorf("the step itself: %v", err)
	}
	if stream.Close(); len(s.sending) != 0 {
		t.Errorf("%v stay claimed", s.sending)
	}
}

// TestProtectNames: a step whose cursor's name would be too long is refused before it is sent.
func TestProtectNames(t *testing.T) {
	longest := endpoint.MaxNameLength - len("#zrepl_CURSOR_G_0123456789abcdef_J_j")
	for kind, longest := range map[pdu.ReplicationGuaranteeKind]int{
		resumability: longest, incremental: longest - len("TENTATIVE_"), nothing: endpoint.MaxNameLength - len("@1"),
	} {
		s, log := scripted(t, SenderOptions{}, "")
		st := &step{fs: strings.Repeat("a", longest), to: version{name: "1", guid: 1}}
		if err := s.protect(t.Context(), st, kind); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		done := logged(log)
		st.fs += "a"
		if err := s.protect(t.Context(), st, kind); kind != nothing && (!errors.Is(err, endpoint.ErrInvalid) || logged(log) != done) {
			t.Errorf("%v, a name that is too long: %v", kind, err)
		}
	}
}

// TestSendWithoutProgram: what could not be started does not stay claimed.
func TestSendWithoutProgram(t *testing.T) {
	s, _ := scripted(t, SenderOptions{}, `[ "$1" != list ] || rm "$0"`)
	if _, _, err := s.Send(t.Context(), request("a/b", nothing, nil, snapshot1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if len(s.sending) != 0 {
		t.Errorf("%v stay claimed", s.sending)
	}
}

func TestStreamWriteTo(t *testing.T) {
	p := fake(t, `head -c 3000000 /dev/zero`)
	stream, err := p.openStream(t.Context(), nil, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if n, err := stream.WriteTo(io.Discard); n != 3000000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestSendDry(t *testing.T) {
	s, _ := scripted(t, SenderOptions{}, `[ "$1" != send ] || printf 'size\t4711\n'`)
	if res, err := s.SendDry(t.Context(), request("a/b", nothing, nil, snapshot1)); err != nil || res.ExpectedSize != 4711 {
		t.Errorf("%v, %v", res, err)
	}
	s, _ = scripted(t, SenderOptions{}, `[ "$1" != send ] || exit 1`)
	if res, err := s.SendDry(t.Context(), request("a/b", nothing, nil, snapshot1)); err != nil || res.ExpectedSize != 0 {
		t.Errorf("where zfs cannot tell: %v, %v", res, err)
	}
}

func TestFilesystems(t *testing.T) {
	s, _ := scripted(t, SenderOptions{Filter: func(name string) bool { return name != "c" }}, "")
	if got, err := s.Filesystems(t.Context()); err != nil || !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("filesystems are %v, %v", got, err)
	}
}

func TestSnapshot(t *testing.T) {
	s, log := scripted(t, SenderOptions{}, `case "$*" in "snapshot "*a/bad@*) echo "cannot create snapshot 'a/bad@x': dataset already exists" >&2; exit 1;; esac`)
	failed := s.Snapshot(t.Context(), "x", []string{"a", "a/bad", "b", "-r"})
	if len(failed) != 2 || !strings.Contains(failed["a/bad"].Error(), "already exists") || !errors.Is(failed["-r"], endpoint.ErrInvalid) {
		t.Errorf("failed: %v", failed)
	}
	lines := strings.Split(strings.TrimSpace(logged(log)), "\n")
	slices.Sort(lines)
	if want := []string{"snapshot a/bad@x", "snapshot a@x", "snapshot a@x a/bad@x", "snapshot b@x"}; !slices.Equal(lines, want) {
		t.Errorf("commands are %q, want %q", lines, want)
	}
	if failed := s.Snapshot(t.Context(), "y", []string{"a"}); failed != nil {
		t.Errorf("failed: %v", failed)
	}
	for _, name := range []string{"", "a,b", "a@b", "a%b", strings.Repeat("x", 254)} {
		if failed := s.Snapshot(t.Context(), name, []string{"a"}); !errors.Is(failed["a"], endpoint.ErrInvalid) {
			t.Errorf("%q: %v", name, failed)
		}
	}
}

// TestThousandFilesystems: their versions are listed with a handful of processes.
func TestThousandFilesystems(t *testing.T) {
	p := fake(t, `case "$1" in
get) seq -f 'p/%g	encryption	default	off' 1000 ;;
list) while [ "$1" != name,guid,createtxg,creation,userrefs ]; do shift; done; shift
	printf '%s@s\t1\t1\t1\t0\n' "$@" ;;
esac`)
	s, err := NewSender(SenderOptions{Program: p.path, Job: "j"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil || len(res.Filesystems) != 1000 {
		t.Fatalf("%d filesystems, %v", len(res.GetFilesystems()), err)
	}
	for _, f := range res.Filesystems {
		res, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: f.Path})
		if err != nil || len(res.Versions) != 1 {
			t.Fatalf("versions of %s: %v, %v", f.Path, res, err)
		}
	}
	if got := s.program.starts.Load(); got > 10 {
		t.Errorf("%d processes", got)
	}
}
