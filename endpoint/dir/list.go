package dir

import (
	"fmt"
	"time"
)

// StoredFilesystem is a filesystem of a store, with its versions in ascending order
// of CreateTXG; damaged ones come last.
type StoredFilesystem struct {
	Name     string
	Versions []StoredVersion
}

// StoredVersion is a snapshot, or a bookmark: a copy of the manifest of a snapshot that
// may be gone.
type StoredVersion struct {
	Name         string
	GUID         uint64
	CreateTXG    uint64
	Creation     time.Time
	Files        int64
	Bytes        int64 // the sum of the files' sizes
	Inconsistent bool  // some file kept changing while it was read, or is left out
	Bookmark     bool
	Damaged      string // why its manifest cannot be read: then nothing is known but its name
}

// ListStore lists what is in a store: a sender's, or a receiver's of one client.
// Placeholders are left out.
func ListStore(path string) ([]StoredFilesystem, error) {
	s, err := openStore(path, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	infos, err := s.list()
	if err != nil {
		return nil, err
	}
	var list []StoredFilesystem
	for _, info := range infos {
		if info.Placeholder {
			continue
		}
		f, err := s.stored(info.Name)
		if err != nil {
			return nil, fmt.Errorf("list store %s: %w", path, err)
		}
		list = append(list, f)
	}
	return list, nil
}

func (s *store) stored(name string) (StoredFilesystem, error) {
	f, err := s.filesystem(name, false)
	if err != nil {
		return StoredFilesystem{}, err
	}
	defer f.Close()
	l, err := f.listAll()
	if err != nil {
		return StoredFilesystem{}, err
	}
	stored := StoredFilesystem{Name: name}
	for _, v := range l.good {
		stored.Versions = append(stored.Versions, StoredVersion{
			Name: v.Name, GUID: v.GUID, CreateTXG: v.CreateTXG, Creation: time.Unix(0, v.Creation),
			Files: v.Files, Bytes: v.Bytes, Inconsistent: v.Inconsistent, Bookmark: v.Bookmark,
		})
	}
	for _, d := range l.damaged {
		stored.Versions = append(stored.Versions, StoredVersion{Name: d.Name, Bookmark: d.Bookmark, Damaged: d.err.Error()})
	}
	return stored, nil
}
