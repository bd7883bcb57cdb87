package dir

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

func TestReceiverConforms(t *testing.T) {
	endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
		r := newRig(t)
		n := 0
		s := endpointtest.Sender{Sender: r.sender, Filesystem: testFS, Snapshot: func(t *testing.T, name string) {
			n++
			r.write("file", fmt.Append(nil, "content ", n))
			r.snapshot(name)
		}}
		return s, endpointtest.Receiver{Receiver: r.receiver}
	})
}

func TestNewReceiverRefuses(t *testing.T) {
	for _, opts := range []ReceiverOptions{{Job: "sink"}, {Root: "/x"}, {Root: "/x", Job: "a/b"}} {
		if _, err := NewReceiver(opts); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("NewReceiver(%+v): %v", opts, err)
		}
	}
}

var errCut = errors.New("the connection was cut")

// cut ends a stream with errCut after n bytes.
func cut(stream []byte, n int) io.Reader {
	return io.MultiReader(bytes.NewReader(stream[:n]), failing{})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errCut }

// broken makes a rig with two versions whose step from one to the other has all
// kinds of entries, and the stream of that step.
func broken(t *testing.T) (r *rig, one, two *pdu.FilesystemVersion, stream []byte) {
	r = newRig(t)
	r.zoo()
	r.write("patched", random(20, 4<<20))
	one = r.snapshot("one")
	r.step(nil, one)
	r.must(os.Rename(r.path("large"), r.path("moved")))
	r.write("moved copy", random(1, 3<<20))
	data := random(20, 4<<20)
	copy(data[1<<20:], random(21, 700_000))
	r.write("patched", data)
	for i := range 40 {
		r.write(fmt.Sprintf("new/%d/file", i), random(uint64(30+i), 60_000))
	}
	r.must(os.Link(r.path("new/7/file"), r.path("new/8/same file")))
	two = r.snapshot("two")
	return r, one, two, r.stream(one, two, "")
}

// TestReceiveBodyLost: what is shorter than it was is lost, and received again.
func TestReceiveBodyLost(t *testing.T) {
	for _, size := range []int64{0, deltaPrefixLen - 1, 100} {
		r, one, two, whole := broken(t)
		_ = r.receive(two, cut(whole, len(whole)-200_000))
		r.unsync(0)
		r.must(os.Truncate(filepath.Join(r.root, testFS, receivingDir, bodyName), size))
		if err := r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("a body of %d bytes: %v", size, err)
		}
		r.must(r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))))
		r.check("two")
	}
}

// TestListWithoutBookmarks: what one filesystem lacks keeps neither its token nor the
// others from being listed.
func TestListWithoutBookmarks(t *testing.T) {
	r, _, two, whole := broken(t)
	_ = r.receive(two, cut(whole, len(whole)-200_000))
	r.must(os.Remove(filepath.Join(r.root, testFS, bookmarksDir)))
	if r.token() == "" {
		t.Error("the token is gone")
	}
}

func TestReceiveResumesAfterCut(t *testing.T) {
	r, one, two, whole := broken(t)
	cuts := []int{0, 1, streamHeaderLen - 1, streamHeaderLen, streamHeaderLen + 1, streamHeaderLen + deltaPrefixLen, len(whole) - 2, len(whole) - 1, len(whole)}
	for i := range 40 {
		cuts = append(cuts, streamHeaderLen+i*(len(whole)-streamHeaderLen)/40)
	}
	for _, n := range cuts {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			r.T = t
			if err := r.receive(two, cut(whole, n)); !errors.Is(err, errCut) {
				t.Fatalf("Receive of a stream that is cut: %v", err)
			}
			if got := r.versions(); !slices.Equal(got, []string{"one"}) {
				t.Fatalf("after the cut there are %v", got)
			}
			token := r.token()
			if (token == "") != (n <= streamHeaderLen) {
				t.Fatalf("token %q", token)
			}
			rest := r.stream(one, two, token)
			if got, want := n-streamHeaderLen+len(rest), len(whole); token != "" && got != want {
				t.Errorf("the two streams have %d bytes, want %d", got, want)
			}
			r.must(r.receive(two, bytes.NewReader(rest)))
			r.check("two")
			if token := r.token(); token != "" {
				t.Errorf("token %q after commit", token)
			}
			r.destroy(two)
		})
	}
}

// destroy destroys a version on the receiver, its hold too.
func (r *rig) destroy(v *pdu.FilesystemVersion) {
	r.Helper()
	f, err := openFilesystem(r.root, testFS, false)
	r.must(err)
	defer f.Close()
	r.must(f.setHolds(lastReceivedHoldTag("sink")))
	res, err := r.receiver.DestroySnapshots(r.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{v}})
	r.must(err)
	if res.Results[0].Error != "" {
		r.Fatal(res.Results[0].Error)
	}
}

// TestReceiveResumesAgainAndAgain cuts every stream of a step after few bytes.
func TestReceiveResumesAgainAndAgain(t *testing.T) {
	r, one, two, whole := broken(t)
	for n := 0; ; n++ {
		rest := r.stream(one, two, r.token())
		if len(rest) < 300_000 {
			r.must(r.receive(two, bytes.NewReader(rest)))
			break
		}
		if err := r.receive(two, cut(rest, 250_000)); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		if n > len(whole)/200_000 {
			t.Fatal("it makes no headway")
		}
	}
	r.check("two")
}

// TestReceiveRewinds: a stream may begin before what the receiver has.
func TestReceiveRewinds(t *testing.T) {
	r, one, two, whole := broken(t)
	_ = r.receive(two, cut(whole, len(whole)/3))
	early := r.token()
	_ = r.receive(two, cut(r.stream(one, two, early), len(whole)/3))
	r.must(r.receive(two, bytes.NewReader(r.stream(one, two, early))))
	r.check("two")
}

// TestOtherKind: a mismatch of endpoints is refused on either side before anything is
// written.
func TestOtherKind(t *testing.T) {
	r := newRig(t)
	r.write("a", []byte("some text"))
	one := r.snapshot("one")
	for kind, start := range map[string]string{
		"zfs":   "\x00\x00\x00\x00\x00\x00\x00\x00\xac\xcb\xba\xf5\x02\x00\x00\x00",
		"btrfs": "btrfs-stream\x00\x01\x00\x00\x00",
	} {
		err := r.receive(one, strings.NewReader(start+strings.Repeat("x", 1000)))
		if !errors.Is(err, endpoint.ErrInvalid) || !strings.Contains(err.Error(), "this is a "+kind+" stream; the receiver takes dir streams") {
			t.Errorf("%s: %v", kind, err)
		}
		_, _, err = r.sender.Send(t.Context(), &pdu.SendReq{Filesystem: testFS, To: one, StreamKinds: []string{kind}})
		if !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("sender, %s: %v", kind, err)
		}
	}
	if _, err := os.Lstat(r.root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused stream leaves %s behind: %v", r.root, err)
	}
}

// TestReceiveDamagedStream flips one bit in each byte of a stream, in turn.
func TestReceiveDamagedStream(t *testing.T) {
	r := newRig(t)
	r.write("a", []byte("some text"))
	r.write("b/c", bytes.Repeat([]byte("x"), 100))
	one := r.snapshot("one")
	whole := r.stream(nil, one, "")
	for i := range whole {
		damaged := slices.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		if err := r.receive(one, bytes.NewReader(damaged)); err == nil {
			t.Fatalf("byte %d of %d flipped, and nobody notices", i, len(whole))
		}
		if got := r.versions(); len(got) > 0 {
			t.Fatalf("byte %d of %d flipped made %v", i, len(whole), got)
		}
		if i%16 > 0 {
			continue
		}
		// What the damaged stream left behind must not spoil the step.
		r.must(r.receive(one, bytes.NewReader(r.stream(nil, one, r.token()))))
		r.check("one")
		r.destroy(one)
	}
}

// TestReceiveDamagedStep is the same for some of the bytes of a step with all kinds of
// entries: every part of it is under a digest.
func TestReceiveDamagedStep(t *testing.T) {
	r, one, two, whole := broken(t)
	literals := streamHeaderLen + deltaPrefixLen + len(r.delta(one, two))
	var at []int
	for i := range 30 {
		at = append(at, i*literals/30, literals+i*(len(whole)-literals)/30)
	}
	for i, pos := range append(at, literals-1, literals, len(whole)-1) {
		damaged := slices.Clone(whole)
		damaged[pos] ^= 1 << (i % 8)
		if err := r.receive(two, bytes.NewReader(damaged)); err == nil {
			t.Fatalf("byte %d of %d flipped, and nobody notices", pos, len(whole))
		}
	}
	r.must(r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))))
	r.check("two")
}

func TestReceiveMoreThanAStream(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	if err := r.receive(one, bytes.NewReader(append(r.stream(nil, one, ""), 0))); err == nil {
		t.Error("a byte behind the body goes unnoticed")
	}
}

// TestFailure12StaleTokenBlocks: a resume token that does not match any more must not
// block its filesystem.
func TestFailure12StaleTokenBlocks(t *testing.T) {
	t.Run("the sender's To is another one now", func(t *testing.T) {
		r := newRig(t)
		r.write("f", random(1, 2<<20))
		one := r.snapshot("one")
		_ = r.receive(one, cut(r.stream(nil, one, ""), 1<<20))
		token := r.token()
		if token == "" {
			t.Fatal("no token")
		}
		r.must(os.RemoveAll(r.store))
		r.write("f", random(2, 2<<20))
		again := r.snapshot("one")
		if _, err := r.open(nil, again, token); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Fatalf("Send with a stale token: %v", err)
		}
		_, err := r.receiver.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: testFS, To: again, ClearResumeToken: true},
			bytes.NewReader(r.stream(nil, again, "")))
		r.must(err)
		r.check("one")
	})
	t.Run("the receiver's From is gone", func(t *testing.T) {
		r, _, two, whole := broken(t)
		_ = r.receive(two, cut(whole, len(whole)/2))
		r.destroy(&pdu.FilesystemVersion{Name: "one", Guid: r.guid("one")})
		if token := r.token(); token != "" {
			t.Errorf("token %q", token)
		}
		r.step(nil, two)
		r.check("two")
	})
	t.Run("the receiver was emptied", func(t *testing.T) {
		r, one, two, whole := broken(t)
		_ = r.receive(two, cut(whole, len(whole)/2))
		rest := r.stream(one, two, r.token())
		r.must(os.RemoveAll(filepath.Join(r.root, testFS, receivingDir)))
		if err := r.receive(two, bytes.NewReader(rest)); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("Receive of the rest of nothing: %v", err)
		}
		r.step(one, two)
		r.check("two")
	})
}

func (r *rig) guid(name string) uint64 {
	r.Helper()
	_, v := r.openVersion(r.root, name)
	return v.GUID
}

// TestReceiveAfterReboot: what was not synced is not trusted under another boot. A
// receive that breaks syncs what it has, one that is killed cannot.
func TestReceiveAfterReboot(t *testing.T) {
	t.Run("broken", func(t *testing.T) {
		r, one, two, whole := broken(t)
		_ = r.receive(two, cut(whole, len(whole)/2))
		token := r.token()
		r.receiver.boot = "another"
		if again := r.token(); token == "" || again != token {
			t.Errorf("token %q, after a reboot %q", token, again)
		}
		r.must(r.receive(two, bytes.NewReader(r.stream(one, two, token))))
		r.check("two")
	})
	t.Run("killed", func(t *testing.T) {
		r, one, two, whole := broken(t)
		cmd, in := r.process(two, whole[:len(whole)-200_000])
		r.must(cmd.Process.Kill())
		_ = cmd.Wait()
		in.Close()
		if r.token() == "" {
			t.Error("no token")
		}
		r.receiver.boot = "another"
		if token := r.token(); token != "" {
			t.Errorf("token %q after a reboot without a sync", token)
		}
		r.step(one, two)
		r.check("two")
	})
}

// TestReceiveDropsWhatIsDamaged: a broken receive whose files are not there as they
// were is not continued, and does not stand in the way.
func TestReceiveDropsWhatIsDamaged(t *testing.T) {
	tests := []struct {
		name   string
		damage func(path string) error // of new/0/file in the tree
	}{
		{"gone", os.Remove},
		{"shorter", func(path string) error { return errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 5)) }},
		{"a link", func(path string) error { return errors.Join(os.Remove(path), os.Symlink("x", path)) }},
		{"directory gone", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		{"directory a file", func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, one, two, whole := broken(t)
			_ = r.receive(two, cut(whole, len(whole)-200_000))
			rest := r.stream(one, two, r.token())
			r.must(tt.damage(filepath.Join(r.root, testFS, receivingDir, buildName, treeName, "new/0/file")))
			if err := r.receive(two, bytes.NewReader(rest)); !errors.Is(err, endpoint.ErrStaleToken) {
				t.Errorf("Receive: %v", err)
			}
			if token := r.token(); token != "" {
				t.Errorf("token %q", token)
			}
			r.must(r.receive(two, bytes.NewReader(whole)))
			r.check("two")
		})
	}
}

// unsync makes a broken receive's progress say that less of it is on disk.
func (r *rig) unsync(synced int64) {
	r.Helper()
	name := filepath.Join(r.root, testFS, receivingDir, progressName)
	data, err := os.ReadFile(name)
	r.must(err)
	p := decodeProgress(data)
	if p.written <= synced {
		r.Fatalf("%d bytes were received, not more than %d", p.written, synced)
	}
	p.synced = synced
	r.must(os.WriteFile(name, p.encode(), 0o600))
}

// TestReceiveLostInSameBoot: what was written and not synced may be gone although the
// machine was not booted since, a disk unplugged for one. Then one attempt finds that
// out, and the step goes on where it was synced last.
func TestReceiveLostInSameBoot(t *testing.T) {
	const synced = 1 << 20
	zero := func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 0), os.Truncate(path, st.Size()))
	}
	tests := []struct {
		name string
		lost []string
		how  func(path string) error
	}{
		{"the file to continue", []string{"patched"}, zero},
		{"a file that was done", []string{"new/8/file"}, zero},
		{"name of a file that was done", []string{"new/8/file"}, os.Remove},
		{"everything", []string{"new/5/file", "new/6/file", "new/7/file", "new/8/file", "new/9/file", "patched"}, zero},
		{"all names", []string{"new/5", "new/6", "new/7", "new/8", "new/9", "patched"}, os.RemoveAll},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, one, two, whole := broken(t)
			_ = r.receive(two, cut(whole, len(whole)-200_000))
			r.unsync(synced)
			for _, name := range tt.lost {
				r.must(tt.how(filepath.Join(r.root, testFS, receivingDir, buildName, treeName, name)))
			}
			if err := r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))); err == nil {
				t.Fatal("nobody notices")
			}
			token, err := parseResumeToken(r.token())
			if err != nil || token.Offset != synced {
				t.Fatalf("the step goes on at %d, error %v; want %d", token.Offset, err, synced)
			}
			r.must(r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))))
			r.check("two")
		})
	}
}

// TestReceiveLostBelowSync: where not even what was synced is there, going back once
// is no help.
func TestReceiveLostBelowSync(t *testing.T) {
	r, one, two, whole := broken(t)
	_ = r.receive(two, cut(whole, len(whole)-200_000))
	r.unsync(1 << 20)
	r.must(os.Remove(filepath.Join(r.root, testFS, receivingDir, buildName, treeName, "new/0/file")))
	for i, more := range []bool{true, false} {
		if err := r.receive(two, bytes.NewReader(r.stream(one, two, r.token()))); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("attempt %d: %v", i, err)
		}
		if token := r.token(); (token != "") != more {
			t.Errorf("attempt %d leaves token %q", i, token)
		}
	}
	r.step(one, two)
	r.check("two")
}

// flip changes one bit of a file.
func flip(at int64) func(*os.File) error {
	return func(f *os.File) error {
		b := make([]byte, 1)
		_, err := f.ReadAt(b, at)
		b[0] ^= 1
		_, writeErr := f.WriteAt(b, at)
		return errors.Join(err, writeErr)
	}
}

// TestReceiveCopiesDamage: what a step takes from the version before is not checked
// again, whole files or chunks. Verify finds the damage in both versions.
func TestReceiveCopiesDamage(t *testing.T) {
	r, _, two, whole := broken(t)
	damage(t, filepath.Join(r.root, testFS, "@one", treeName, "patched"), flip(3<<20))
	r.must(r.receive(two, bytes.NewReader(whole)))
	for _, version := range []string{"one", "two"} {
		report, err := Verify(t.Context(), r.root, testFS, version, VerifyOptions{})
		r.must(err)
		if m := report.Mismatches; len(m) != 1 || m[0].Path != "patched" {
			t.Errorf("%s: mismatches %v", version, m)
		}
	}
}

// TestReceiveFromDamaged: a step whose start is damaged here says so, and how to go on.
func TestReceiveFromDamaged(t *testing.T) {
	remove := func(r *rig, path string) { r.must(os.RemoveAll(path)) }
	tests := []struct {
		name   string
		path   string // below @one
		damage func(r *rig, path string)
	}{
		{"manifest changed", manifestName, func(r *rig, path string) { damage(r.T, path, flip(300)) }},
		{"tree gone", treeName, remove},
		{"file gone", treeName + "/deep.er", remove},
		{"directory gone", treeName + "/deep", remove},
		{"file shorter", treeName + "/large", func(r *rig, path string) {
			damage(r.T, path, func(f *os.File) error { return f.Truncate(5) })
		}},
		{"source of chunks gone", treeName + "/patched", remove},
		{"source of chunks shorter", treeName + "/patched", func(r *rig, path string) {
			damage(r.T, path, func(f *os.File) error { return f.Truncate(5) })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, one, two, _ := broken(t)
			version := filepath.Join(r.root, testFS, "@one")
			tt.damage(r, filepath.Join(version, tt.path))
			for range 2 {
				err := r.receive(two, bytes.NewReader(r.stream(one, two, r.token())))
				if !errors.Is(err, endpoint.ErrFailedPrecondition) {
					t.Fatalf("Receive: %v", err)
				}
				for _, want := range []string{"version one of " + testFS + " is damaged in the receiver's store", "dualrepl verify sink", version} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, without %q", err, want)
					}
				}
			}
			r.must(os.RemoveAll(version))
			r.step(nil, two)
			r.check("two")
		})
	}
}

// TestReceiveDamagedName: a version that cannot be read is in nobody's list, and its
// name is taken all the same.
func TestReceiveDamagedName(t *testing.T) {
	r, _, two, whole := broken(t)
	taken := filepath.Join(r.root, testFS, "@two")
	r.must(os.Mkdir(taken, 0o700))
	err := r.receive(two, bytes.NewReader(whole))
	if !errors.Is(err, endpoint.ErrFailedPrecondition) || !strings.Contains(err.Error(), "cannot be read") || !strings.Contains(err.Error(), taken) {
		t.Errorf("Receive: %v", err)
	}
	res, err := r.receiver.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{two}})
	r.must(err)
	if res.Results[0].Error != "" {
		t.Errorf("destroying it: %s", res.Results[0].Error)
	}
	r.must(r.receive(two, bytes.NewReader(whole)))
	r.check("two")
}

// TestReceiveHeldThroughout: from its commit on, a version is held, also if the receive
// ends there.
func TestReceiveHeldThroughout(t *testing.T) {
	r, _, two, whole := broken(t)
	taken := filepath.Join(r.root, testFS, "@two")
	stream := io.MultiReader(bytes.NewReader(whole), onRead(func() { _ = os.Mkdir(taken, 0o700) }))
	if err := r.receive(two, stream); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Fatalf("a receive that cannot commit: %v", err)
	}
	f, err := openFilesystem(r.root, testFS, false)
	r.must(err)
	defer f.Close()
	for _, guid := range []uint64{r.guid("one"), two.Guid} {
		if tags, err := f.holds(guid); len(tags) != 1 || err != nil {
			t.Errorf("holds on %#x: %v, %v", guid, tags, err)
		}
	}
	r.must(os.Remove(taken)) // what a kill right behind the commit leaves
	r.must(f.root.Rename(receivingDir+"/"+buildName, "@two"))
	var log bytes.Buffer
	r.receiver.log = &storeLog{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	if token := r.token(); token != "" || log.Len() > 0 {
		t.Errorf("token %q, log %s", token, &log)
	}
	r.check("two")
}

// TestResumeTokenWithoutDescriptors: a token that cannot be read for a moment is no
// step that is not there.
func TestResumeTokenWithoutDescriptors(t *testing.T) {
	r, _, two, whole := broken(t)
	_ = r.receive(two, cut(whole, len(whole)/2))
	want := r.token()
	next, err := os.Open(r.root)
	r.must(err)
	first := uint64(next.Fd())
	r.must(next.Close())
	var limit unix.Rlimit
	r.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	failed := 0
	for free := range uint64(30) {
		r.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: first + free, Max: limit.Max}))
		res, err := r.receiver.ListFilesystems(t.Context(), nil)
		switch {
		case err != nil:
			failed++
		case res.Filesystems[len(res.Filesystems)-1].ResumeToken != want:
			t.Errorf("with %d descriptors: %v", free, res)
		}
	}
	if failed == 0 || failed == 30 {
		t.Errorf("%d of 30 listings fail", failed)
	}
}

// TestDropPartialIsAtomic: with a part of it removed, a broken receive is none.
func TestDropPartialIsAtomic(t *testing.T) {
	f := testFilesystem(t)
	p := startTestPartial(t, f)
	if err := errors.Join(p.advance(1<<20), p.stop(errCut)); err != nil {
		t.Fatal(err)
	}
	pinned := filepath.Join(f.root.Name(), receivingDir, buildName, treeName)
	if err := unix.Mount("tmpfs", pinned, "tmpfs", 0, ""); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(f.root.Name(), metaDir, destroyingName+"*", buildName, treeName))
		if err != nil || len(left) != 1 || unix.Unmount(left[0], unix.MNT_DETACH) != nil {
			t.Errorf("left is %v, %v", left, err)
		}
	})
	for range 2 { // the second beside what the first left
		if err := f.dropPartial(t.Context()); err != nil {
			t.Errorf("dropping what cannot be removed: %v", err)
		}
		if token, err := f.brokenStep("boot"); token.Offset > 0 || err != nil {
			t.Errorf("what was dropped in part has token %+v, error %v", token, err)
		}
		p = startTestPartial(t, f)
		if err := errors.Join(p.advance(1<<20), p.stop(errCut)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTrusted(t *testing.T) {
	record := progressRecord{written: 900, synced: 300, boot: blake3.Sum256([]byte("boot"))}.encode()
	torn := slices.Clone(record)
	torn[7]++
	tests := []struct {
		name   string
		record []byte
		boot   string
		want   int64
	}{
		{"same boot", record, "boot", 900},
		{"other boot", record, "other", 300},
		{"unknown boot", record, "", 300},
		{"torn", torn, "boot", 0},
		{"short", record[:20], "boot", 0},
		{"empty", nil, "boot", 0},
	}
	for _, tt := range tests {
		if got := decodeProgress(tt.record).trusted(tt.boot); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// TestPartialSyncs: every syncEvery bytes the progress survives a power loss.
func TestPartialSyncs(t *testing.T) {
	f := testFilesystem(t)
	p := startTestPartial(t, f)
	defer p.close()
	steps := []struct {
		advance        int
		here, rebooted int64 // when the sync that this began, if it did, has ended
	}{
		{1, 0, 0},
		{saveEvery, saveEvery + 1, 0},
		{syncEvery - saveEvery - 1, syncEvery, syncEvery},
		{saveEvery, syncEvery + saveEvery, syncEvery},
		{syncEvery - saveEvery, 2 * syncEvery, 2 * syncEvery},
	}
	for i, step := range steps {
		if err := errors.Join(p.advance(step.advance), p.endSync()); err != nil {
			t.Fatal(err)
		}
		checkProgress(t, f, strconv.Itoa(i), step.here, step.rebooted)
	}
	if err := p.rewind(5); err != nil {
		t.Fatal(err)
	}
	checkProgress(t, f, "after a rewind to 5", 5, 5)
}

// checkProgress checks how much of a broken step counts here, and after a reboot.
func checkProgress(t *testing.T, f *filesystem, when string, here, rebooted int64) {
	t.Helper()
	gotHere, _ := f.brokenStep("boot")
	gotRebooted, _ := f.brokenStep("other")
	if gotHere.Offset != here || gotRebooted.Offset != rebooted {
		t.Errorf("%s: %d bytes, %d after a reboot; want %d and %d", when, gotHere.Offset, gotRebooted.Offset, here, rebooted)
	}
}

// TestPartialSyncsInTheBackground: a sync covers what was received when it began. What
// needs its end waits for it.
func TestPartialSyncsInTheBackground(t *testing.T) {
	const received = syncEvery + 3*saveEvery // while the sync runs
	tests := []struct {
		name           string
		do             func(p *partial) error
		waits          bool
		here, rebooted int64 // after it, and after the end of all syncs
	}{
		{"little more", func(p *partial) error { return p.advance(saveEvery) }, false, received + saveEvery, syncEvery},
		{"twice as much", func(p *partial) error { return p.advance(syncEvery) }, true, received + syncEvery, received + syncEvery},
		{"close", (*partial).close, true, received, syncEvery},
		{"stop", func(p *partial) error { return p.stop(errCut) }, true, received, received},
		{"give up", func(p *partial) error { return p.stop(errLost) }, true, 0, 0},
		{"rewind behind it", func(p *partial) error { return p.rewind(syncEvery + 7) }, true, syncEvery + 7, syncEvery},
		{"rewind before it", func(p *partial) error { return p.rewind(7) }, true, 7, 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := testFilesystem(t)
			synctest.Test(t, func(t *testing.T) {
				p := startTestPartial(t, f)
				defer p.close()
				if err := p.advance(syncEvery); err != nil {
					t.Fatal(err)
				}
				sync, slow := p.syncing, make(chan error, 1)
				p.syncing = slow // does not end yet
				if err := p.advance(received - syncEvery); err != nil {
					t.Fatal(err)
				}
				checkProgress(t, f, "while it runs", received, 0)
				ended, result := false, make(chan error, 1)
				go func() { result <- tt.do(p); ended = true }()
				synctest.Wait()
				if ended == tt.waits {
					t.Errorf("ended before the sync: %v", ended)
				}
				slow <- <-sync
				if err := errors.Join(<-result, p.endSync()); err != nil {
					t.Error(err)
				}
				checkProgress(t, f, "in the end", tt.here, tt.rebooted)
			})
		})
	}
}

// startTestPartial starts a step to the version with GUID 1.
func startTestPartial(t *testing.T, f *filesystem) *partial {
	t.Helper()
	p, err := f.startPartial(t.Context(), streamHeader{ToGUID: 1}, "boot")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPartialKeepsItsSync: what was synced before a step broke is so when it goes on.
func TestPartialKeepsItsSync(t *testing.T) {
	f := testFilesystem(t)
	p := startTestPartial(t, f)
	if err := errors.Join(p.advance(syncEvery), p.close()); err != nil {
		t.Fatal(err)
	}
	p, err := f.resumePartial(streamHeader{ToGUID: 1, Offset: syncEvery}, "boot")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.advance(saveEvery), p.close()); err != nil {
		t.Fatal(err)
	}
	if after, _ := f.brokenStep("other"); after.Offset != syncEvery {
		t.Errorf("%d bytes after a reboot, want %d", after.Offset, syncEvery)
	}
}

// TestPartialSyncFails: then nothing counts but what was synced before, whatever is
// tried again.
func TestPartialSyncFails(t *testing.T) {
	tests := map[string]func(p *partial) error{
		"more is received":   func(p *partial) error { return p.advance(syncEvery) },
		"the end of a build": (*partial).endSync,
		"a wrong file":       func(p *partial) error { return p.rewind(syncEvery + 1) },
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			f := testFilesystem(t)
			p := startTestPartial(t, f)
			if err := errors.Join(p.advance(syncEvery), p.endSync(), p.advance(saveEvery)); err != nil {
				t.Fatal(err)
			}
			f.lost = unix.EIO
			if err := p.advance(syncEvery - saveEvery); err != nil {
				t.Fatalf("the sync fails before it is waited for: %v", err)
			}
			if err := do(p); name != "a wrong file" && !errors.Is(err, unix.EIO) {
				t.Errorf("error %v", err)
			}
			if err := p.stop(errCut); err != nil {
				t.Error(err)
			}
			checkProgress(t, f, "stopped", syncEvery, syncEvery)
		})
	}
}

// TestReceiveProcess is no test but the receiving process of others, started with
// the root, the version's name and its GUID. It receives its standard input.
func TestReceiveProcess(t *testing.T) {
	if flag.NArg() != 3 {
		t.Skip("not started by another test")
	}
	receiver, err := NewReceiver(ReceiverOptions{Root: flag.Arg(0), Job: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	guid, err := strconv.ParseUint(flag.Arg(2), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	_, err = receiver.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: testFS, To: &pdu.FilesystemVersion{Name: flag.Arg(1), Guid: guid}}, os.Stdin)
	if err != nil {
		t.Fatal(err)
	}
}

// process starts a receiving process and writes n bytes of the stream to it.
func (r *rig) process(to *pdu.FilesystemVersion, stream []byte) (*exec.Cmd, io.WriteCloser) {
	r.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReceiveProcess$", "--", r.root, to.Name, strconv.FormatUint(to.Guid, 10))
	in, err := cmd.StdinPipe()
	r.must(err)
	r.must(cmd.Start())
	_, err = in.Write(stream)
	r.must(err)
	return cmd, in
}

// TestReceiveKilled kills receiving processes at many places of a stream. What was
// written to a process and not read yet, a pipe's 64 KiB, counts as sent.
func TestReceiveKilled(t *testing.T) {
	const allowed = 8 << 20
	r := newRig(t)
	for i := range 100 {
		r.write(fmt.Sprintf("dir%d/file%d", i%7, i), random(uint64(i), 20_000+i*1000))
	}
	r.write("large", random(200, 30<<20))
	one := r.snapshot("one")
	whole := r.stream(nil, one, "")
	sent := 0
	for _, n := range []int{100_000, 700_000, 5 << 20, 1 << 20, 9 << 20, 300_000, 4 << 20} {
		rest := r.stream(nil, one, r.token())
		if repeated := sent + len(rest) - len(whole); repeated > allowed {
			t.Fatalf("%d bytes are sent again", repeated)
		}
		sent = len(whole) - len(rest) + n
		cmd, in := r.process(one, rest[:n])
		r.must(cmd.Process.Kill())
		_ = cmd.Wait()
		in.Close()
		if got := r.versions(); len(got) > 0 {
			t.Fatalf("a killed receive made %v", got)
		}
	}
	cmd, in := r.process(one, r.stream(nil, one, r.token()))
	in.Close()
	r.must(cmd.Wait())
	r.check("one")
}

func TestReceiveBusyAcrossProcesses(t *testing.T) {
	r := newRig(t)
	r.write("large", random(1, 4<<20))
	one := r.snapshot("one")
	whole := r.stream(nil, one, "")
	// More than a pipe holds: the process has read some of it, so it has the lock.
	cmd, in := r.process(one, whole[:1<<20])
	if err := r.receive(one, bytes.NewReader(whole)); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("a receive beside another process's: %v", err)
	}
	r.must(cmd.Process.Kill())
	_ = cmd.Wait()
	in.Close()
	r.must(r.receive(one, bytes.NewReader(r.stream(nil, one, r.token()))))
	r.check("one")
}

// TestReceiveDiskFull fills a small tmpfs.
func TestReceiveDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("SKIPPED: no tmpfs can be mounted here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	r := newRig(t)
	var err error
	r.root = filepath.Join(dir, "root")
	r.receiver, err = NewReceiver(ReceiverOptions{Root: r.root, Job: "sink"})
	r.must(err)
	for i := range 6 {
		r.write(fmt.Sprint("file", i), random(uint64(i), 1<<20))
	}
	one := r.snapshot("one")
	whole := r.stream(nil, one, "")
	if err := r.receive(one, bytes.NewReader(whole)); !errors.Is(err, endpoint.ErrNoSpace) {
		t.Fatalf("Receive on a full disk: %v", err)
	}
	r.must(unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16m"))
	rest := r.stream(nil, one, r.token())
	if len(rest) > len(whole)-2<<20 {
		t.Errorf("%d bytes of %d are sent again", len(rest), len(whole))
	}
	r.must(r.receive(one, bytes.NewReader(rest)))
	r.check("one")
}

// hostileStream makes a stream of a full step out of whatever manifest.
func hostileStream(m *Manifest, literals []byte) []byte {
	m.Encode()
	delta := encodeDelta(nil, m)
	h := streamHeader{ToGUID: m.GUID, ToDigest: m.Digest, BodyLength: int64(deltaPrefixLen + len(delta) + len(literals))}
	stream := append(h.encode(), 0, 0, 0, 0, byte(len(delta)>>24), byte(len(delta)>>16), byte(len(delta)>>8), byte(len(delta)))
	return append(append(stream, delta...), literals...)
}

// TestReceiveHostile sends manifests that no sender makes.
func TestReceiveHostile(t *testing.T) {
	outside := t.TempDir()
	root := Entry{Type: TypeDir, Mode: 0o755}
	dir := func(path string) Entry { return Entry{Path: path, Type: TypeDir, Mode: 0o755} }
	evil := []byte("evil")
	file := func(path string) Entry {
		return Entry{Path: path, Type: TypeFile, Mode: 0o644, Size: int64(len(evil)), Hash: blake3.Sum256(evil)}
	}
	link := func(path, target string) Entry { return Entry{Path: path, Type: TypeSymlink, Target: target} }
	grouped := func(e Entry, n uint64) Entry { e.LinkGroup = n; return e }
	tests := []struct {
		name    string
		entries []Entry
	}{
		{"no entries", nil},
		{"no root", []Entry{file("a")}},
		{"root is a link", []Entry{link("", outside)}},
		{"root twice", []Entry{root, root}},
		{"dot dot", []Entry{root, file("..")}},
		{"dot dot inside", []Entry{root, dir("a"), file("a/../b")}},
		{"upwards", []Entry{root, file("../evil")}},
		{"far upwards", []Entry{root, file("../../../../../../../.." + outside + "/evil")}},
		{"absolute", []Entry{root, file(outside + "/evil")}},
		{"dot", []Entry{root, file(".")}},
		{"empty component", []Entry{root, dir("a"), file("a//b")}},
		{"trailing slash", []Entry{root, file("a/")}},
		{"NUL", []Entry{root, file("a\x00b")}},
		{"long name", []Entry{root, file(strings.Repeat("n", 256))}},
		{"long path", []Entry{root, file(strings.Repeat("n/", 2500) + "n")}},
		{"through a link", []Entry{root, link("a", outside), file("a/evil")}},
		{"through a link to a directory inside", []Entry{root, link("a", "."), file("a/evil")}},
		{"no parent", []Entry{root, file("a/b")}},
		{"parent is a file", []Entry{root, file("a"), file("a/b")}},
		{"same path twice", []Entry{root, link("a", outside+"/evil"), file("a")}},
		{"out of order", []Entry{root, file("b"), file("a")}},
		{"link group of different files", []Entry{root, grouped(link("a", outside), 1), grouped(file("b"), 1)}},
		{"hard-linked directories", []Entry{root, grouped(dir("a"), 1), grouped(dir("b"), 1)}},
		{"unknown type", []Entry{root, {Path: "a", Type: 99}}},
		{"negative size", []Entry{root, {Path: "a", Type: TypeFile, Size: -1}}},
		{"hole outside", []Entry{root, {Path: "a", Type: TypeFile, Size: 5, Holes: []Hole{{Off: 3, Len: 10}}}}},
		{"hole that overflows", []Entry{root, {Path: "a", Type: TypeFile, Size: 5, Holes: []Hole{{Off: 3, Len: 1<<63 - 1}}}}},
		{"chunks that do not fit", []Entry{root, {Path: "a", Type: TypeFile, Size: 5, Chunks: []Chunk{{Len: 4}}}}},
		{"size of the file after the last", []Entry{root, {Path: "a", Type: TypeFile, Size: 1 << 62}}},
		{"wrong digest", []Entry{root, {Path: "a", Type: TypeFile, Size: 4}}},
		{"wrong digest of a hole", []Entry{root, {Path: "a", Type: TypeFile, Size: 4096, Holes: []Hole{{Len: 4096}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			m := &Manifest{Name: "one", GUID: 7, CreateTXG: 1, Entries: tt.entries}
			to := &pdu.FilesystemVersion{Name: "one", Guid: 7}
			if err := r.receive(to, bytes.NewReader(hostileStream(m, evil))); err == nil {
				t.Error("Receive succeeds")
			}
			if err := r.receive(to, bytes.NewReader(hostileStream(m, nil))); err == nil {
				t.Error("Receive without literals succeeds")
			}
			if got := r.versions(); len(got) > 0 {
				t.Errorf("there are %v", got)
			}
		})
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside of the root there is %v, error %v", entries, err)
	}
}

// TestReceiveKeepsLinksThatPointOutside: a link may point anywhere; nothing follows it.
func TestReceiveKeepsLinksThatPointOutside(t *testing.T) {
	r := newRig(t)
	outside := filepath.Join(t.TempDir(), "precious")
	r.must(os.WriteFile(outside, []byte("precious"), 0o644))
	r.must(os.Symlink(outside, r.path("a")))
	one := r.snapshot("one")
	r.step(nil, one)
	r.check("one")
	r.must(os.Remove(r.path("a")))
	r.write("a", []byte("now a file"))
	r.step(one, r.snapshot("two"))
	r.check("two")
	if got, err := os.ReadFile(outside); string(got) != "precious" {
		t.Errorf("outside there is %q, error %v", got, err)
	}
}

// TestReceivePlantedLinks puts links that lead outside into the trees of a receiver,
// as somebody with access to the disk could.
func TestReceivePlantedLinks(t *testing.T) {
	tests := []struct {
		name  string
		plant string // below the filesystem's directory
	}{
		{"directory of a broken receive", receivingDir + "/version/tree/new"},
		{"tree of a broken receive", receivingDir + "/version/tree"},
		{"the file to continue", receivingDir + "/version/tree/patched"},
		{"file to copy from", "@one/tree/patched"},
		{"directory to link from", "@one/tree/deep"},
		{"tree to copy from", "@one/tree"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outside := t.TempDir()
			secret := filepath.Join(outside, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
				t.Fatal(err)
			}
			r, one, two, whole := broken(t)
			_ = r.receive(two, cut(whole, len(whole)-200_000))
			planted := filepath.Join(r.root, testFS, tt.plant)
			r.must(os.RemoveAll(planted))
			r.must(os.Symlink(outside, planted))
			for range 2 {
				if rest, err := r.open(one, two, r.token()); err == nil {
					_ = r.receive(two, rest)
					rest.Close()
				}
				_ = r.receive(two, bytes.NewReader(whole))
			}
			entries, err := os.ReadDir(outside)
			r.must(err)
			data, err := os.ReadFile(secret)
			if len(entries) != 1 || string(data) != "secret" || err != nil {
				t.Errorf("outside there is %v, %q, error %v", entries, data, err)
			}
		})
	}
}

func TestReceiveHeldVersion(t *testing.T) {
	r, one, two, whole := broken(t)
	res, err := r.receiver.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one}})
	r.must(err)
	if !strings.Contains(res.Results[0].Error, "last_received_J_sink") {
		t.Errorf("destroying the version received last: %q", res.Results[0].Error)
	}
	r.must(r.receive(two, bytes.NewReader(whole)))
	res, err = r.receiver.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one, two}})
	r.must(err)
	if res.Results[0].Error != "" || res.Results[1].Error == "" {
		t.Errorf("destroying both: %v", res.Results)
	}
	r.check("two")
}

func TestReceiveRefuses(t *testing.T) {
	r, one, two, whole := broken(t)
	r.must(r.receive(two, bytes.NewReader(whole)))
	tests := []struct {
		name   string
		to     *pdu.FilesystemVersion
		stream []byte
		want   error
	}{
		{"the same version again", two, whole, endpoint.ErrFailedPrecondition},
		{"a full step behind others", one, r.stream(nil, one, ""), endpoint.ErrFailedPrecondition},
		{"another name", &pdu.FilesystemVersion{Name: "other", Guid: two.Guid + 1}, whole, endpoint.ErrInvalid},
	}
	for _, tt := range tests {
		if err := r.receive(tt.to, bytes.NewReader(tt.stream)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestReceiveForeignOwner: an owner that cannot be set is in the manifest only.
func TestReceiveForeignOwner(t *testing.T) {
	r := newRig(t)
	m := &Manifest{Name: "one", GUID: 7, CreateTXG: 1, Entries: []Entry{
		{Type: TypeDir, Mode: 0o755, UID: 12345, GID: 12345},
		{Path: "link", Type: TypeSymlink, Target: "x", UID: 12345, GID: 12345},
	}}
	r.must(r.receive(&pdu.FilesystemVersion{Name: "one", Guid: 7}, bytes.NewReader(hostileStream(m, nil))))
	r.checkVerify("one")
}

// TestReceiveRefusesTakenName: a name that another version has is refused before
// anything is transferred.
func TestReceiveRefusesTakenName(t *testing.T) {
	r, _, two, whole := broken(t)
	f, err := openFilesystem(r.root, testFS, false)
	r.must(err)
	defer f.Close()
	makeVersion(t, f, two.Name, two.Guid+1, two.CreateTXG)
	stream := &counter{Reader: bytes.NewReader(whole)}
	if err := r.receive(two, stream); !errors.Is(err, endpoint.ErrFailedPrecondition) || stream.n > streamHeaderLen {
		t.Errorf("error %v after %d bytes", err, stream.n)
	}
}

func TestReceiveEndsWithItsContext(t *testing.T) {
	r, _, two, whole := broken(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	const n = saveEvery + 2*aheadBlocks*aheadBlock // when it was read, more than saveEvery was written
	stream := io.MultiReader(bytes.NewReader(whole[:n]), onRead(func() { cancel(errCut) }), bytes.NewReader(whole[n:]))
	_, err := r.receiver.Receive(ctx, &pdu.ReceiveReq{Filesystem: testFS, To: two}, stream)
	if !errors.Is(err, errCut) || r.token() == "" {
		t.Errorf("error %v, token %q", err, r.token())
	}
}

// onRead is an empty stream that does something when it is read.
type onRead func()

func (f onRead) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// FuzzReceive feeds a receiver that has one version whatever there is. What it takes
// must be whole, and outside of its root nothing may change.
func FuzzReceive(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := newRig(t)
		one := &pdu.FilesystemVersion{Name: "one", Guid: 7}
		if err := r.receive(one, bytes.NewReader(stream)); err != nil {
			if got := r.versions(); len(got) > 0 {
				t.Errorf("Receive fails, and there is %v", got)
			}
			return
		}
		r.checkVerify("one")
	})
}
