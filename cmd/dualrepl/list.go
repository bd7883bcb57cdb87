package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [JOB]",
		Short: "List the versions in the store of a job, or of all jobs",
		Long: `Lists filesystems and their versions: what the snapshots of a push, source or snap job
are, or what a sink or pull job has received. A sink's filesystems begin with the
identity of the client that pushed them. Names with # are bookmarks: replication
cursors, which have no files. Versions are listed from old to new; damaged ones, whose
age nobody knows, come last. Files and sizes are those of directories only.`,
		Example: `  dualrepl list
  dualrepl list backups
  dualrepl list backups --json |
    jq -r '.[].filesystems[] | [.versions[] | select(.type=="snapshot" and .damaged==null)][-1].name'`,
		Args: arguments("[JOB]"),
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		jobs, err := a.jobs(cmd.ErrOrStderr(), args)
		if err != nil {
			return err
		}
		results := make([]listResult, len(jobs))
		for i, job := range jobs {
			var listErr error
			results[i], listErr = newListResult(cmd.Context(), job)
			err = errors.Join(err, listErr)
		}
		return firstError(err, printLists(cmd.OutOrStdout(), results, *asJSON))
	}
	return cmd
}

// jobs are the one that is named, or all.
func (a *app) jobs(stderr io.Writer, args []string) ([]*daemon.Job, error) {
	logger := terminal.NewLogger(stderr)
	if len(args) > 0 {
		job, err := a.job(args[0], logger)
		return []*daemon.Job{job}, err
	}
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	return daemon.OpenAll(cfg, logger), nil
}

// listResult is a job's store, for scripts.
type listResult struct {
	Job         string           `json:"job"`
	Type        string           `json:"type"`
	Endpoint    string           `json:"endpoint"`
	Store       string           `json:"store"` // a directory; of zfs, the dataset that is received below, or empty
	Filesystems []listFilesystem `json:"filesystems"`
	Error       string           `json:"error,omitempty"` // not empty: it could not be listed
}

type listFilesystem struct {
	Name     string        `json:"name"`
	Versions []listVersion `json:"versions"` // oldest first, damaged ones last
}

type listVersion struct {
	Type         string    `json:"type"` // snapshot or bookmark
	Name         string    `json:"name"`
	GUID         string    `json:"guid"` // hexadecimal
	Creation     time.Time `json:"creation"`
	Files        *int64    `json:"files,omitempty"`   // of a directory
	Bytes        *int64    `json:"bytes,omitempty"`   // of a directory
	Inconsistent bool      `json:"inconsistent"`      // lacks something, or has it from another moment
	Damaged      string    `json:"damaged,omitempty"` // not empty: it cannot be read, nothing but its name is known
}

func newListResult(ctx context.Context, job *daemon.Job) (listResult, error) {
	r := listResult{Job: job.Name(), Type: job.Type(), Endpoint: job.Endpoint(), Store: job.Store(), Filesystems: []listFilesystem{}}
	list, err := job.List(ctx)
	if err != nil {
		r.Error = err.Error()
	}
	for _, fs := range list {
		item := listFilesystem{Name: fs.Name, Versions: []listVersion{}}
		for _, v := range fs.Versions {
			item.Versions = append(item.Versions, newListVersion(v, job.Endpoint() == config.EndpointDir))
		}
		r.Filesystems = append(r.Filesystems, item)
	}
	return r, err
}

func newListVersion(v dir.StoredVersion, directory bool) listVersion {
	r := listVersion{
		Type: typeOf(v.Bookmark), Name: v.Name, GUID: guid(v.GUID), Creation: v.Creation.UTC(),
		Inconsistent: v.Inconsistent, Damaged: v.Damaged,
	}
	if directory {
		r.Files, r.Bytes = &v.Files, &v.Bytes
	}
	return r
}

// The types of versions, for scripts.
const (
	snapshot = "snapshot"
	bookmark = "bookmark"
)

func typeOf(isBookmark bool) string {
	if isBookmark {
		return bookmark
	}
	return snapshot
}

// separators stand between a filesystem and its version, by the version's type.
var separators = map[string]string{snapshot: "@", bookmark: "#"}

// printLists leaves out what could not be listed, which the error tells.
func printLists(w io.Writer, results []listResult, asJSON bool) error {
	if asJSON {
		return printJSON(w, results)
	}
	for _, r := range results {
		if r.Error != "" {
			continue
		}
		if err := printList(w, r); err != nil {
			return err
		}
	}
	return nil
}

func printList(w io.Writer, r listResult) error {
	fmt.Fprintf(w, "%s (%s, %s)\n", r.Job, r.Type, terminal.Printable(cmp.Or(r.Store, r.Endpoint)))
	if len(r.Filesystems) == 0 {
		_, err := fmt.Fprintln(w, "  no filesystems yet")
		return err
	}
	rows := [][]string{{"  VERSION", "CREATED", "FILES", "SIZE", "GUID"}}
	for _, fs := range r.Filesystems {
		if len(fs.Versions) == 0 {
			rows = append(rows, []string{"  " + fs.Name, "no version yet"})
		}
		for _, v := range fs.Versions {
			rows = append(rows, versionRow(fs.Name, v))
		}
	}
	return printTable(w, rows)
}

func versionRow(filesystem string, v listVersion) []string {
	name := "  " + filesystem + separators[v.Type] + v.Name
	if v.Damaged != "" {
		return []string{name, "damaged: " + v.Damaged}
	}
	files, size := "", ""
	if v.Files != nil && v.Type != bookmark {
		files, size = strconv.FormatInt(*v.Files, 10), terminal.Bytes(uint64(*v.Bytes))
	}
	row := []string{name, v.Creation.Local().Format(time.DateTime), files, size, v.GUID}
	if v.Inconsistent {
		row = append(row, "inconsistent")
	}
	return row
}
