package btrfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// state is what a filesystem remembers beside its versions.
type state struct {
	// Marks hold snapshots: what is marked is not destroyed.
	Marks []mark `json:"marks,omitempty"`
	// Received says when the snapshots that were received were created at their origin:
	// btrfs does not tell.
	Received []creation `json:"received,omitempty"`
}

// mark is a cursor or a hold.
type mark struct {
	Kind markKind `json:"kind"`
	owner
	GUID uint64 `json:"guid,string"`
}

// owner is whose a mark is.
type owner struct {
	Job    string `json:"job"`
	Client string `json:"client,omitempty"` // that pulls; "": the job itself
}

// markKind says what a mark is for.
type markKind string

const (
	markCursor       markKind = "cursor"        // a sender's replication cursor
	markStep         markKind = "step"          // an end of a sender's step that is under way
	markLastReceived markKind = "last_received" // what a receiver's next step starts from
)

// String says in an error why a snapshot stays.
func (m mark) String() string {
	what := map[markKind]string{
		markCursor: "replication cursor", markStep: "step under way", markLastReceived: "last received version",
	}[m.Kind]
	if m.Client != "" {
		return fmt.Sprintf("%s of job %s, client %s", what, m.Job, m.Client)
	}
	return fmt.Sprintf("%s of job %s", what, m.Job)
}

// creation is when a version was created.
type creation struct {
	GUID uint64    `json:"guid,string"`
	Time time.Time `json:"time"`
}

// setMarks makes the owner's marks of a kind exactly those on guids.
func (s *state) setMarks(kind markKind, of owner, guids ...uint64) {
	s.Marks = slices.DeleteFunc(s.Marks, func(m mark) bool { return m.Kind == kind && m.owner == of })
	for _, guid := range guids {
		s.Marks = append(s.Marks, mark{kind, of, guid})
	}
}

// addMark adds a mark to those that are there.
func (s *state) addMark(m mark) {
	if !slices.Contains(s.Marks, m) {
		s.Marks = append(s.Marks, m)
	}
}

// cursor returns the GUID of the owner's replication cursor; 0: none.
func (s *state) cursor(of owner) uint64 {
	for _, m := range s.Marks {
		if m.Kind == markCursor && m.owner == of {
			return m.GUID
		}
	}
	return 0
}

// marksOn returns why a snapshot stays.
func (s *state) marksOn(guid uint64) (marks []mark) {
	for _, m := range s.Marks {
		if m.GUID == guid {
			marks = append(marks, m)
		}
	}
	return marks
}

// setCreation remembers when a version was created.
func (s *state) setCreation(guid uint64, at time.Time) {
	s.Received = slices.DeleteFunc(s.Received, func(c creation) bool { return c.GUID == guid })
	s.Received = append(s.Received, creation{guid, at})
}

// keepOnly forgets the versions that are gone. Destroying one does not: it has to be possible
// on a full disk, where nothing can be written.
func (s *state) keepOnly(versions []version) {
	here := map[uint64]bool{}
	for _, v := range versions {
		here[v.guid()] = true
	}
	s.Received = slices.DeleteFunc(s.Received, func(c creation) bool { return !here[c.GUID] })
}

func (f *filesystem) readState() (*state, error) {
	s := &state{}
	data, err := f.meta.ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", f.name, err)
	}
	return s, nil
}

// updateState changes the state under its lock. Where change returns an error, or changes
// nothing, nothing is written.
func (f *filesystem) updateState(change func(*state) error) error {
	lock, err := f.flock(stateLockName, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := f.readState()
	if err != nil {
		return err
	}
	before := state{slices.Clone(s.Marks), slices.Clone(s.Received)}
	if err := change(s); err != nil {
		return err
	}
	if slices.Equal(before.Marks, s.Marks) && slices.Equal(before.Received, s.Received) {
		return nil
	}
	if err := f.writeState(s); err != nil {
		return fmt.Errorf("state of %s: %w", f.name, kernelError(err))
	}
	return nil
}

// writeState replaces the state, on disk, or leaves it as it is.
func (f *filesystem) writeState(s *state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	err = f.writeSynced(stateTempName, append(data, '\n'))
	if err == nil {
		err = f.meta.Rename(stateTempName, stateName)
	}
	if err != nil { // on a full disk it would take room
		return errors.Join(err, f.meta.RemoveAll(stateTempName))
	}
	return f.meta.file.Sync()
}

func (f *filesystem) writeSynced(name string, data []byte) error {
	file, err := f.meta.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}
