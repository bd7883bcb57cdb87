package dir

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/zeebo/blake3"
)

// A running or broken receive lies in receivingDir:
//
//	step      which step it is: its resume token, from offset 0
//	body      the beginning of the body, as far as the delta goes
//	progress  how much of the body is on disk
//	version/  what becomes the version: the tree, in the end the manifest
const (
	stepName     = "step"
	bodyName     = "body"
	progressName = "progress"
	buildName    = "version"
)

const (
	// saveEvery is how many bytes of the body pass between two updates of the
	// progress file: what a killed receive repeats at most.
	saveEvery = 1 << 20
	// syncEvery is how many bytes of the body pass between two syncfs. Each runs while
	// as much again is received, and is on record with the next: three times that is
	// what a running receive repeats at most after a power loss. One that broke before
	// has synced all but the last saveEvery.
	syncEvery = 32 << 20
)

// bootIDFile names the boot of the machine. Within one boot the kernel has all that
// was written, whether or not it reached the disk.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// readBootID returns "" where the kernel does not tell; nothing but what was synced
// is trusted then.
func readBootID() string {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// progressRecord is the content of the progress file.
type progressRecord struct {
	written, synced int64 // bytes of the body
	boot            Digest
}

const progressLen = 8 + 8 + 32 + 32

func (r progressRecord) encode() []byte {
	b := make([]byte, 0, progressLen)
	b = binary.BigEndian.AppendUint64(b, uint64(r.written))
	b = binary.BigEndian.AppendUint64(b, uint64(r.synced))
	b = append(b, r.boot[:]...)
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// decodeProgress decodes a progress file. A damaged one is as none: zero.
func decodeProgress(b []byte) progressRecord {
	if len(b) != progressLen {
		return progressRecord{}
	}
	if sum := blake3.Sum256(b[:progressLen-32]); !bytes.Equal(sum[:], b[progressLen-32:]) {
		return progressRecord{}
	}
	return progressRecord{
		written: int64(binary.BigEndian.Uint64(b)),
		synced:  int64(binary.BigEndian.Uint64(b[8:])),
		boot:    Digest(b[16:48]),
	}
}

// trusted says how many bytes of the body are surely there.
func (r progressRecord) trusted(boot string) int64 {
	if boot != "" && r.boot == blake3.Sum256([]byte(boot)) {
		return r.written
	}
	return r.synced
}

// brokenStep tells which step a broken receive is of, and how far it got: not at all,
// where there is none or it is damaged. It needs no lock.
func (f *filesystem) brokenStep(boot string) (resumeToken, error) {
	step, err := f.root.ReadFile(receivingDir + "/" + stepName)
	if err != nil {
		return resumeToken{}, onlyExhausted(err)
	}
	token, err := parseResumeToken(string(step))
	if err != nil {
		return resumeToken{}, nil
	}
	progress, err := f.root.ReadFile(receivingDir + "/" + progressName)
	token.Offset = decodeProgress(progress).trusted(boot)
	return token, onlyExhausted(err)
}

// onlyExhausted drops an error that tells of the file.
func onlyExhausted(err error) error {
	if exhausted(err) {
		return err
	}
	return nil
}

// dropPartial removes what a broken receive left. The caller holds the lock.
func (f *filesystem) dropPartial(ctx context.Context) error {
	_, err := f.root.Lstat(receivingDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f.log.Info("dropping the beginning of a broken step", "filesystem", f.name)
	err = f.hidePartial()
	f.removeLeftovers(ctx)
	return err
}

// hidePartial leaves receivingDir to removeLeftovers: with a part of its tree gone it
// would pass for a step that can be continued.
func (f *filesystem) hidePartial() error {
	if err := f.root.Rename(receivingDir, destroyingPath()); err != nil {
		return err
	}
	return syncDir(f.root, metaDir)
}

// partial is a receive that runs.
type partial struct {
	fs       *filesystem
	root     *os.Root // receivingDir
	body     *os.File
	progress *os.File
	boot     Digest
	pos      int64 // bytes of the body that were received
	saved    int64 // pos when the progress file was written
	synced   int64 // what a syncfs has covered

	syncing chan error // gets the result of the syncfs that runs; nil: none does
	covers  int64      // pos when that began

	// Of a step that broke before, bytes of the body: what of it is here, and what of
	// that is surely on disk. The rest may be lost although the machine was not booted
	// since: a disk was unplugged, or failed to take what was written back to it.
	had  int64
	sure int64
}

// beginPartial begins or continues the step of a stream.
func (f *filesystem) beginPartial(ctx context.Context, h streamHeader, boot string) (*partial, error) {
	if h.Offset > 0 {
		return f.resumePartial(h, boot)
	}
	return f.startPartial(ctx, h, boot)
}

// startPartial begins a step, in place of whatever was there.
func (f *filesystem) startPartial(ctx context.Context, h streamHeader, boot string) (*partial, error) {
	if err := f.dropPartial(ctx); err != nil {
		return nil, err
	}
	if err := f.root.MkdirAll(receivingDir+"/"+buildName+"/"+treeName, 0o700); err != nil {
		return nil, err
	}
	step := resumeToken{FromGUID: h.FromGUID, ToGUID: h.ToGUID, ToDigest: h.ToDigest}
	if err := f.root.WriteFile(receivingDir+"/"+stepName, []byte(step.encode()), 0o600); err != nil {
		return nil, err
	}
	p, err := f.openReceiving(boot)
	if err != nil {
		return nil, err
	}
	return p, p.closeOn(p.save())
}

// resumePartial continues the broken step that the stream says it continues, at the
// stream's offset; endpoint.ErrStaleToken if that is not possible.
func (f *filesystem) resumePartial(h streamHeader, boot string) (*partial, error) {
	have, err := f.brokenStep(boot)
	if err != nil {
		return nil, err
	}
	want := resumeToken{FromGUID: h.FromGUID, ToGUID: h.ToGUID, ToDigest: h.ToDigest, Offset: have.Offset}
	if have != want || h.Offset > have.Offset {
		return nil, fmt.Errorf("%w: the stream continues at byte %d of a step that is not here", endpoint.ErrStaleToken, h.Offset)
	}
	p, err := f.openReceiving(boot)
	if err != nil {
		return nil, err
	}
	err = p.rewind(h.Offset)
	p.had, p.sure = p.pos, p.synced
	return p, p.closeOn(err)
}

func (f *filesystem) openReceiving(boot string) (p *partial, err error) {
	p = &partial{fs: f, boot: blake3.Sum256([]byte(boot))}
	if p.root, err = f.root.OpenRoot(receivingDir); err != nil {
		return nil, err
	}
	if p.body, err = p.root.OpenFile(bodyName, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, p.closeOn(err)
	}
	if p.progress, err = p.root.OpenFile(progressName, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, p.closeOn(err)
	}
	record, err := io.ReadAll(io.LimitReader(p.progress, progressLen))
	p.synced = decodeProgress(record).synced
	return p, p.closeOn(err)
}

// ownTree makes a tree in place of a link: the step shared its tree before it broke, and
// cannot now.
func (p *partial) ownTree() error {
	const name = buildName + "/" + treeName
	st, err := p.root.Lstat(name)
	if err == nil && st.IsDir() {
		return nil
	}
	if err == nil {
		err = p.root.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.root.Mkdir(name, 0o700)
}

// closeOn closes p if there is an error.
func (p *partial) closeOn(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, p.close())
}

func (p *partial) close() error {
	err := errors.Join(p.endSync(), p.root.Close())
	for _, f := range []*os.File{p.body, p.progress} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// advance says that n further bytes of the body were written to files.
func (p *partial) advance(n int) error {
	p.pos += int64(n)
	if len(p.syncing) > 0 || p.pos-p.synced >= 2*syncEvery {
		if err := p.endSync(); err != nil {
			return err
		}
	}
	if p.syncing == nil && p.pos-p.synced >= syncEvery {
		p.beginSync()
	}
	if p.pos-p.saved >= saveEvery {
		return p.save()
	}
	return nil
}

// beginSync makes what was received so far survive a power loss, while more is received.
func (p *partial) beginSync() {
	done := make(chan error, 1)
	p.syncing, p.covers = done, p.pos
	go func() { done <- p.fs.sync() }()
}

// endSync waits for the sync that runs, if one does.
func (p *partial) endSync() error {
	if p.syncing == nil {
		return nil
	}
	err := <-p.syncing
	p.syncing = nil
	if err != nil {
		return err
	}
	p.synced = p.covers
	return p.save()
}

// stop ends a receive that broke for some reason. It keeps what there is for another
// one to continue, unless that turned out to be damaged. A little more is not worth a
// sync of the whole disk: some connections break often.
func (p *partial) stop(why error) error {
	if errors.Is(why, errLost) {
		return p.giveUp()
	}
	err := p.endSync()
	switch {
	case p.fs.lost != nil:
	case p.pos-p.synced >= saveEvery:
		p.beginSync()
		err = errors.Join(err, p.endSync())
	default:
		err = errors.Join(err, p.save())
	}
	if p.fs.lost != nil { // nothing is certain but what was synced before
		err = errors.Join(err, p.rewind(p.synced))
	}
	return errors.Join(err, p.close())
}

// giveUp takes back all that may be lost. If that was done before, it was no help:
// then everything goes.
func (p *partial) giveUp() error {
	if p.pos > p.sure {
		return errors.Join(p.rewind(p.sure), p.close())
	}
	return errors.Join(p.close(), p.fs.hidePartial())
}

// rewind takes back what was received behind pos. That must be on disk before what
// was synced there is changed.
func (p *partial) rewind(pos int64) error {
	_ = p.endSync() // stop sees to its error
	changes := pos < p.synced
	p.pos, p.synced = pos, min(p.synced, pos)
	if err := p.save(); err != nil || !changes {
		return err
	}
	return p.progress.Sync()
}

// save makes the progress file say how far we are. It overwrites it in place, which
// needs no room on a full disk; where it does (btrfs, ZFS), less counts as received.
func (p *partial) save() error {
	p.saved = p.pos
	_, err := p.progress.WriteAt(progressRecord{p.pos, p.synced, p.boot}.encode(), 0)
	return err
}

// readDelta receives the rest of the delta, and returns all of it.
func (p *partial) readDelta(ctx context.Context, body *readAhead, length int64) ([]byte, error) {
	if err := p.receiveBody(ctx, body, deltaPrefixLen); err != nil {
		return nil, err
	}
	prefix := make([]byte, deltaPrefixLen)
	if _, err := p.body.ReadAt(prefix, 0); err != nil {
		return nil, lostAtEOF(err)
	}
	n := binary.BigEndian.Uint64(prefix)
	if n > MaxManifestBytes || int64(n) > length-deltaPrefixLen {
		return nil, errors.Join(fmt.Errorf("the stream announces a manifest of %d bytes", n), p.rewind(0))
	}
	if err := p.receiveBody(ctx, body, deltaPrefixLen+int64(n)); err != nil {
		return nil, err
	}
	delta := make([]byte, n)
	_, err := io.ReadFull(io.NewSectionReader(p.body, deltaPrefixLen, int64(n)), delta)
	return delta, lostAtEOF(err)
}

// lostAtEOF is for a file that is shorter than what was written to it.
func lostAtEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// receiveBody receives the body up to end into the body file.
func (p *partial) receiveBody(ctx context.Context, body *readAhead, end int64) error {
	for p.pos < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, err := p.receive(body, end-p.pos)
		if err != nil {
			return err
		}
		if err := p.write(p.body, data, p.pos); err != nil {
			return err
		}
	}
	return nil
}

// receive takes 1 to n bytes from the body, valid until the next call.
func (p *partial) receive(body *readAhead, n int64) ([]byte, error) {
	data, err := body.next(n)
	if err != nil {
		return nil, fmt.Errorf("read stream: %w", err)
	}
	return data, nil
}

// write writes what was received to dst at off.
func (p *partial) write(dst *os.File, data []byte, off int64) error {
	if _, err := dst.WriteAt(data, off); err != nil {
		return err
	}
	return p.advance(len(data))
}
