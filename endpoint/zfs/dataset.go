package zfs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

const (
	placeholderProperty = "zrepl:placeholder"
	placeholderOn       = "on"
)

// dataset is a filesystem or volume.
type dataset struct {
	name        string
	placeholder bool   // it says so itself: one that inherits the property is none
	token       string // resume token; "": none
	encryption  string // the property, "off" for a plain one; "": it cannot be told
}

func (d *dataset) encrypted() bool { return d.encryption != "" && d.encryption != "off" }

// datasetProperties are what datasets asks for, in the order of the answer.
const datasetProperties = "receive_resume_token,encryption," + placeholderProperty

// datasets lists roots and, if recursive, all below them, parents before children, with one
// process. Without roots it lists all datasets of all pools.
func (p *program) datasets(ctx context.Context, recursive bool, roots ...string) ([]dataset, error) {
	args := []string{"get", "-H", "-p", "-t", "filesystem,volume", "-o", "name,property,source,value"}
	if recursive {
		args = append(args, "-r")
	}
	out, err := p.run(ctx, append(append(args, datasetProperties), roots...)...)
	if err != nil {
		return nil, err
	}
	return parseDatasets(out, p.log), nil
}

// parseDatasets reads lines of name, property, source and value. What is none, or has a
// name that cannot be replicated, is left out.
//
// The value of a user property, which a peer may have sent, may hold tabs and line breaks,
// and so feign lines. It comes last, so that its true line is always one. What stands there
// twice is not believed: a feigned placeholder would be overwritten.
func parseDatasets(out []byte, log *slog.Logger) []dataset {
	var list []dataset
	index := map[string]int{}
	seen := map[[2]string]bool{}
	for line := range fields(out, 4) {
		name, property := line[0], line[1]
		if err := checkDataset(name); err != nil {
			log.Debug("dataset is left out", "err", err)
			continue
		}
		i, known := index[name]
		if !known {
			i = len(list)
			index[name], list = i, append(list, dataset{name: name})
		}
		key := [2]string{name, property}
		list[i].set(property, line[3], line[2], seen[key])
		seen[key] = true
	}
	slices.SortFunc(list, func(a, b dataset) int { return strings.Compare(a.name, b.name) })
	return list
}

func (d *dataset) set(property, value, source string, again bool) {
	switch property {
	case placeholderProperty:
		d.placeholder = !again && value == placeholderOn && source == "local"
	case "receive_resume_token":
		if d.token = value; again || value == "-" {
			d.token = ""
		}
	case "encryption":
		if d.encryption = value; again {
			d.encryption = ""
		}
	}
}

// fields are the lines of a listing that have at least n fields; the last one is all of the
// rest.
func fields(out []byte, n int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		lines := bufio.NewScanner(bytes.NewReader(out))
		lines.Buffer(nil, len(out)+1)
		for lines.Scan() {
			if f := strings.SplitN(lines.Text(), "\t", n); len(f) == n && !yield(f) {
				return
			}
		}
	}
}

// checkDataset checks a dataset's name. Its pool's begins with a letter, so that it
// is no option of the program's either. The error is endpoint.ErrInvalid.
func checkDataset(name string) error {
	if err := endpoint.ValidateFilesystem(name); err != nil {
		return err
	}
	if c := name[0] | 0x20; c < 'a' || c > 'z' {
		return fmt.Errorf("%w: dataset %q: a pool's name begins with a letter", endpoint.ErrInvalid, name)
	}
	return nil
}
