package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// List lists what is in the job's store; a sink's filesystems are below the identity
// of their client. A store that nothing came to yet is empty. Of the versions of a zfs or
// btrfs endpoint, Files and Bytes are unknown and 0.
func (j *Job) List(ctx context.Context) (list []dir.StoredFilesystem, err error) {
	switch {
	case j.conf.Endpoint.Type != config.EndpointDir:
		list, err = j.listEndpoint(ctx)
	case j.conf.Type == config.TypeSink:
		list, err = listClients(j.Store())
	default:
		list, err = listStore(j.Store(), "")
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return list, nil
}

// listEndpoint lists what the job's endpoint tells.
func (j *Job) listEndpoint(ctx context.Context) (list []dir.StoredFilesystem, err error) {
	var e endpoint.Endpoint
	if j.sends() {
		e, err = j.openSender()
	} else {
		e, err = j.openReceiver(false)
	}
	if err != nil {
		return nil, err
	}
	filesystems, err := e.ListFilesystems(ctx, &pdu.ListFilesystemReq{})
	if err != nil {
		return nil, err
	}
	for _, fs := range filesystems.GetFilesystems() {
		if fs.GetIsPlaceholder() {
			continue
		}
		versions, err := e.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: fs.GetPath()})
		if errors.Is(err, endpoint.ErrNotFound) {
			continue // it was destroyed since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, newStored(fs.GetPath(), versions.GetVersions()))
	}
	return list, nil
}

func newStored(filesystem string, versions []*pdu.FilesystemVersion) dir.StoredFilesystem {
	stored := dir.StoredFilesystem{Name: filesystem}
	for _, v := range versions {
		created, _ := time.Parse(time.RFC3339, v.GetCreation()) // our own endpoint's
		stored.Versions = append(stored.Versions, dir.StoredVersion{
			Name: v.GetName(), GUID: v.GetGuid(), CreateTXG: v.GetCreateTXG(), Creation: created,
			Bookmark: v.GetType() == pdu.FilesystemVersion_Bookmark,
		})
	}
	return stored
}

// listClients lists the stores of a sink's clients.
func listClients(root string) ([]dir.StoredFilesystem, error) {
	clients, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []dir.StoredFilesystem
	for _, client := range clients {
		if !client.IsDir() || transport.ValidateClientIdentity(client.Name()) != nil {
			continue // nothing that a client has sent
		}
		list, err := listStore(filepath.Join(root, client.Name()), client.Name()+"/")
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// listStore lists one store, with a prefix to the names.
func listStore(store, prefix string) ([]dir.StoredFilesystem, error) {
	list, err := dir.ListStore(store)
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil, nil
	}
	for i := range list {
		list[i].Name = prefix + list[i].Name
	}
	return list, err
}

// locate returns the store, as package dir has it, that a filesystem of List lies
// in, and its name there.
func (j *Job) locate(filesystem string) (store, name string, err error) {
	if j.conf.Type != config.TypeSink {
		return j.Store(), filesystem, nil
	}
	client, name, ok := strings.Cut(filesystem, "/")
	if !ok || transport.ValidateClientIdentity(client) != nil {
		return "", "", fmt.Errorf("%w: a sink's filesystems are named CLIENT/FILESYSTEM, not %q", endpoint.ErrInvalid, filesystem)
	}
	return filepath.Join(j.Store(), client), name, nil
}

// withClient says whose filesystem it is, where an error calls one of a sink by its name
// in the client's store.
func withClient(filesystem, name string, err error) error {
	if err == nil || name == filesystem {
		return err
	}
	return fmt.Errorf("%s: %w", filesystem, err)
}

// A StoreProgress is called with the bytes of one version that are done and that
// there are.
type StoreProgress func(name string, done, total uint64)

// Verified is what a verification of one version found.
type Verified struct {
	Filesystem string
	Version    string
	Bookmark   bool              // a manifest without files
	Report     *dir.VerifyReport // nil: not even the manifest could be read
	Err        error             // it could not be verified to its end
}

// Good reports whether the version is all that its manifest says.
func (v Verified) Good() bool { return v.Err == nil && len(v.Report.Mismatches) == 0 }

// Verify checks every file of every version in the job's store. Progress may be nil.
// The error joins those of all versions; it is nil if mismatches are all that was
// found.
func (j *Job) Verify(ctx context.Context, progress StoreProgress) ([]Verified, error) {
	if err := j.onlyDirectories(verify); err != nil {
		return nil, err
	}
	list, err := j.List(ctx)
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string, uint64, uint64) {}
	}
	var all []Verified
	var errs []error
	for _, item := range list {
		for _, version := range item.Versions {
			if ctx.Err() != nil {
				return all, errors.Join(append(errs, context.Cause(ctx))...)
			}
			v := j.verify(ctx, item.Name, version, progress)
			if version.Bookmark && errors.Is(v.Err, endpoint.ErrNotFound) {
				continue // a cursor that has moved on since it was listed
			}
			if v.Err != nil {
				errs = append(errs, fmt.Errorf("job %s: %w", j.Name(), v.Err))
			}
			all = append(all, v)
		}
	}
	return all, errors.Join(errs...)
}

func (j *Job) verify(ctx context.Context, filesystem string, version dir.StoredVersion, progress StoreProgress) Verified {
	v := Verified{Filesystem: filesystem, Version: version.Name, Bookmark: version.Bookmark}
	var store, name string
	if store, name, v.Err = j.locate(filesystem); v.Err != nil {
		return v
	}
	title := filesystem + "@" + version.Name
	report, err := dir.Verify(ctx, store, name, version.Name, dir.VerifyOptions{
		Progress: func(bytes int64) { progress(title, uint64(bytes), uint64(version.Bytes)) },
	})
	v.Report, v.Err = report, withClient(filesystem, name, err)
	return v
}
