package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An Error is one mistake in a configuration.
type Error struct {
	File    string // as given to Load or Parse
	Line    int    // from 1; 0 if the mistake is not in the file
	Column  int    // from 1; 0 if unknown
	Env     string // environment variable that the value came from, else ""
	Field   string // such as jobs[1].connect.address; "" is the whole file
	Message string // what is wrong
	Hint    string // the way out
}

// Error gives it in one line: where, what, and the way out.
func (e *Error) Error() string {
	parts := []string{e.place()}
	if e.Field != "" {
		parts = append(parts, e.Field)
	}
	text := e.Message
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return strings.Join(append(parts, text), ": ")
}

func (e *Error) place() string {
	switch {
	case e.Env != "":
		return "environment variable " + e.Env
	case e.Line == 0:
		return e.File
	case e.Column == 0:
		return fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
}

// Errors are all mistakes of a configuration: those of the environment first,
// then those of the file by line. It is never empty.
type Errors []*Error

// Error gives one line for each.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each Error.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Env, b.Env))
	})
}
