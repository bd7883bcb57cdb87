package btrfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/internal/pipe"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// Names in the subvolume that a receive works in.
const (
	incomingName = "incoming" // what the program makes
	baseName     = "base"     // a snapshot of what the step starts from
)

// incoming is a version that is being received.
type incoming struct {
	to      *pdu.FilesystemVersion
	created time.Time // at its origin
	owner   owner
	program *program
	header  []byte // of the stream
	stream  filter
}

// checkRequest refuses what could never be received, and returns when the version was
// created.
func (in *incoming) checkRequest(req *pdu.ReceiveReq) (time.Time, error) {
	if err := validateFilesystem(req.GetFilesystem()); err != nil {
		return time.Time{}, err
	}
	if err := endpoint.CheckReceived(in.to); err != nil {
		return time.Time{}, err
	}
	if err := validateVersion(in.to.GetName()); err != nil {
		return time.Time{}, err
	}
	created, err := time.Parse(time.RFC3339, in.to.GetCreation())
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: creation of version %s: %w", endpoint.ErrInvalid, in.to.GetName(), err)
	}
	return created.UTC(), nil
}

// begin reads the start of the stream: header and first command.
func (in *incoming) begin(stream io.Reader) error {
	in.header = make([]byte, streamHeaderBytes)
	if _, err := io.ReadFull(stream, in.header); err != nil {
		return fmt.Errorf("read the stream: %w", unexpectedEOF(err))
	}
	in.stream.commands = newCommandReader(stream, int(in.header[streamHeaderBytes-4])) // 1 or 2: ExpectStream
	var err error
	if in.stream.begin, err = readBeginning(in.stream.commands); err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	if guid := in.stream.begin.id.guid(); guid != in.to.GetGuid() {
		return fmt.Errorf("%w: the stream is of the version with GUID %#x, not %#x", endpoint.ErrInvalid, guid, in.to.GetGuid())
	}
	return nil
}

// checkStep says why the step does not fit the versions that are there.
func (in *incoming) checkStep(versions []version) error {
	full := in.stream.begin.from == (uuid{})
	for _, v := range versions {
		if v.guid() == in.to.GetGuid() || v.name == in.to.GetName() {
			return fmt.Errorf("%w: there is a version %s, with GUID %#x, already", endpoint.ErrFailedPrecondition, v.name, v.guid())
		}
	}
	if full && len(versions) > 0 {
		return fmt.Errorf("%w: there are versions already; a full step would not follow from them", endpoint.ErrFailedPrecondition)
	}
	if !full && in.from(versions) < 0 {
		return fmt.Errorf("%w: there is no version with the UUID %v that the step starts from", endpoint.ErrFailedPrecondition, in.stream.begin.from)
	}
	return nil
}

// from returns the index of the version that the step starts from; -1.
func (in *incoming) from(versions []version) int {
	return slices.IndexFunc(versions, func(v version) bool { return v.identity() == in.stream.begin.from })
}

// receive does the step, alone in the filesystem.
func (in *incoming) receive(ctx context.Context, f *filesystem) error {
	lock, err := f.lockReceive(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	versions, err := f.versions(in.program.log)
	if err != nil {
		return err
	}
	if err := in.checkStep(versions); err != nil {
		return err
	}
	if err := f.destroyReceiving(); err != nil {
		return err
	}
	err = in.work(ctx, f, lock, versions)
	full := errors.Is(err, endpoint.ErrNoSpace)
	err = errors.Join(err, f.destroyReceiving())
	if full {
		err = errors.Join(err, freeDestroyed(f.file))
	}
	return err
}

// work receives into a subvolume of its own and commits what came.
func (in *incoming) work(ctx context.Context, f *filesystem, lock *os.File, versions []version) error {
	if err := createSubvolume(f.meta.file, receivingName); err != nil {
		return err
	}
	jail, err := f.meta.child(receivingName, false)
	if err != nil {
		return err
	}
	defer jail.Close()
	if i := in.from(versions); i >= 0 {
		if err := in.makeBase(f, jail, versions[i].name); err != nil {
			return err
		}
	}
	if err := in.run(ctx, jail.file, lock); err != nil {
		return err
	}
	return in.commit(f, jail, versions)
}

// makeBase makes a snapshot of what the step starts from. The program finds it by its
// received UUID, which nothing else on the file system has; and while it is there, it does
// not matter what becomes of the version.
func (in *incoming) makeBase(f *filesystem, jail *folder, from string) error {
	dir, _, err := f.openVersion(from)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := createSnapshot(jail.file, baseName, dir, 0); err != nil {
		return err
	}
	base, _, err := jail.subvolume(baseName)
	if err != nil {
		return err
	}
	defer base.Close()
	rand.Read(in.stream.base[:])
	return setReceived(base, in.stream.base)
}

// run has the program receive the stream. It has a copy of the lock: should this process be
// killed, the program may live a moment longer.
func (in *incoming) run(ctx context.Context, jail, lock *os.File) error {
	st, err := statfs(jail)
	if err != nil {
		return err
	}
	in.stream.devices = st.Flags&unix.ST_NODEV != 0
	p := in.program.command(ctx, []*os.File{jail, lock}, "receive", "--quiet", "--chroot", "-m", descriptor(0), descriptor(0))
	stdin, err := p.StdinPipe()
	if err != nil {
		return err
	}
	pipe.Enlarge(stdin)
	if err := p.start(); err != nil {
		return err
	}
	streamErr, writeErr := in.feed(stdin)
	if streamErr != nil {
		p.kill() // it takes the end of its input for that of the version
		return fmt.Errorf("read the stream: %w", streamErr)
	}
	closeErr := stdin.Close()
	if err := p.wait(); err != nil {
		return err // the reason of writeErr
	}
	return errors.Join(writeErr, closeErr)
}

// feed writes the stream, with its first command changed to name the subvolumes here.
func (in *incoming) feed(stdin io.Writer) (streamErr, writeErr error) {
	start := append(in.header, in.stream.begin.encode(incomingName, in.stream.base)...)
	if _, err := stdin.Write(start); err != nil {
		return nil, err
	}
	return in.stream.copy(stdin)
}

// commit makes a version of what the program made. It is held beside the one before: there
// is no moment without a hold on the newest.
func (in *incoming) commit(f *filesystem, jail *folder, versions []version) error {
	dir, v, err := jail.subvolume(incomingName)
	if err != nil {
		return err
	}
	defer dir.Close()
	if !v.readOnly || v.received != in.stream.begin.id {
		return fmt.Errorf("%w: the btrfs program did not complete the version", endpoint.ErrFailedPrecondition)
	}
	guid := in.to.GetGuid()
	err = f.updateState(func(s *state) error {
		s.keepOnly(versions)
		s.setCreation(guid, in.created)
		s.addMark(mark{markLastReceived, in.owner, guid})
		return nil
	})
	if err != nil {
		return err
	}
	if err := createSnapshot(f.file, "@"+in.to.GetName(), dir, subvolReadOnly); err != nil {
		return err
	}
	return f.updateState(func(s *state) error {
		s.setMarks(markLastReceived, in.owner, guid)
		return nil
	})
}

// destroyReceiving destroys what a receive worked in. The caller has the lock.
func (f *filesystem) destroyReceiving() error {
	err := f.meta.destroyTree(receivingName)
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil
	}
	return err
}

// destroyTree destroys a subvolume and those in it, wherever a stream had them moved.
func (f *folder) destroyTree(name string) error {
	dir, err := f.child(name, false)
	if err != nil {
		return err
	}
	defer dir.Close()
	paths, err := childPaths(dir.file)
	if err != nil {
		return err
	}
	for _, p := range paths {
		parent, err := dir.descend(path.Dir(p), false)
		if err != nil {
			return err
		}
		err = parent.destroyTree(path.Base(p))
		if err = errors.Join(err, parent.Close()); err != nil {
			return err
		}
	}
	return destroySubvolume(f.file, name)
}
