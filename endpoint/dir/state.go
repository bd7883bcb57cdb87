package dir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

const (
	stateName     = metaDir + "/state.json"
	stateTempName = metaDir + "/state.json.new"
	stateLockName = metaDir + "/state.lock"
)

// state is what a filesystem remembers beside its versions.
type state struct {
	// NextCreateTXG is more than that of any version that ever was.
	NextCreateTXG uint64 `json:"next_create_txg"`
	Holds         []hold `json:"holds,omitempty"`
}

// hold keeps a snapshot from being destroyed.
type hold struct {
	GUID uint64 `json:"guid,string"`
	Tag  string `json:"tag"`
}

// Tags of holds: a sender's, on both ends of a step, and a receiver's, on what the
// next incremental step starts from.
func stepHoldTag(owner string) string       { return "STEP_J_" + owner }
func lastReceivedHoldTag(job string) string { return "last_received_J_" + job }

// maxOwnerBytes leaves room for a GUID and more in the names of bookmarks.
const maxOwnerBytes = maxJobBytes + 27

// ownerName tells apart whose a replication cursor or a hold is, in letters that a
// version's name may have: a job's, and where several clients pull from it, each
// client's. A job's name has no space, so that no two pairs have one name in common;
// an identity's other letters are a space and two hexadecimal digits each, one that is
// too long is a space, an H and a digest.
func ownerName(job, client string) string {
	name := []byte(job + " ")
	for _, c := range []byte(client) {
		if c == ' ' || endpoint.ValidateVersionName("_"+string(rune(c))) != nil {
			name = fmt.Appendf(name, " %02x", c)
		} else {
			name = append(name, c)
		}
	}
	if len(name) > maxOwnerBytes {
		sum := blake3.Sum256([]byte(client))
		return fmt.Sprintf("%s  H%x", job, sum[:12])
	}
	return string(name)
}

// lockState waits for the lock of the state and the bookmarks. It is held for
// moments only, also by those who have the writer's lock.
func (f *filesystem) lockState() (*fsLock, error) {
	file, err := f.flock(stateLockName, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("lock the state of %s: %w", f.name, err)
	}
	return &fsLock{file: file}, nil
}

func (f *filesystem) readState() (state, error) {
	s := state{NextCreateTXG: 1}
	data, err := f.root.ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return state{}, fmt.Errorf("state of %s: %w", f.name, err)
	}
	return s, nil
}

// updateState changes the state. What change leaves as it was is not written.
func (f *filesystem) updateState(change func(*state)) error {
	lock, err := f.lockState()
	if err != nil {
		return err
	}
	defer lock.unlock()
	return f.changeState(change)
}

// changeState is updateState for those who have the lock of the state.
func (f *filesystem) changeState(change func(*state)) error {
	s, err := f.readState()
	if err != nil {
		return err
	}
	before := state{s.NextCreateTXG, slices.Clone(s.Holds)}
	change(&s)
	if s.NextCreateTXG == before.NextCreateTXG && slices.Equal(s.Holds, before.Holds) {
		return nil
	}
	if err := f.writeState(s); err != nil {
		return fmt.Errorf("state of %s: %w", f.name, err)
	}
	return nil
}

func (f *filesystem) writeState(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := f.replace(stateName, stateTempName, append(data, '\n')); err != nil {
		return err
	}
	return syncDir(f.root, metaDir)
}

// replace makes name a file with this content, or leaves it as it is. The caller syncs
// the directory.
func (f *filesystem) replace(name, temp string, data []byte) error {
	err := f.writeSynced(temp, data)
	if err == nil {
		err = f.root.Rename(temp, name)
	}
	if err != nil { // on a full disk it would take room
		return errors.Join(err, f.root.RemoveAll(temp))
	}
	return nil
}

func (f *filesystem) writeSynced(name string, data []byte) error {
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// keepTXGAbove makes sure that no later version gets txg or less.
func (f *filesystem) keepTXGAbove(txg uint64) error {
	return f.updateState(func(s *state) { s.NextCreateTXG = max(s.NextCreateTXG, txg+1) })
}

// nextTXG is the CreateTXG for a new version after those listed.
func (f *filesystem) nextTXG(versions []versionInfo) (uint64, error) {
	s, err := f.readState()
	next := s.NextCreateTXG
	for _, v := range versions {
		next = max(next, v.CreateTXG+1)
	}
	return next, err
}

// setHolds makes the holds with this tag exactly those on guids; none releases all.
func (f *filesystem) setHolds(tag string, guids ...uint64) error {
	return f.updateState(func(s *state) { s.setHolds(tag, guids) })
}

func (s *state) setHolds(tag string, guids []uint64) {
	s.Holds = slices.DeleteFunc(s.Holds, func(h hold) bool { return h.Tag == tag })
	for _, guid := range guids {
		s.Holds = append(s.Holds, hold{GUID: guid, Tag: tag})
	}
}

// holdAlso adds a hold to those with its tag.
func (f *filesystem) holdAlso(tag string, guid uint64) error {
	return f.updateState(func(s *state) {
		if h := (hold{guid, tag}); !slices.Contains(s.Holds, h) {
			s.Holds = append(s.Holds, h)
		}
	})
}

// holds returns the tags of the holds on a snapshot.
func (f *filesystem) holds(guid uint64) ([]string, error) {
	s, err := f.readState()
	var tags []string
	for _, h := range s.Holds {
		if h.GUID == guid {
			tags = append(tags, h.Tag)
		}
	}
	return tags, err
}
