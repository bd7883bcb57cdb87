// Package terminal shows people how far the work is and how much there was.
//
// Progress draws bars on a terminal and nothing at all into a pipe or a file, so
// that output for scripts stays what the commands print. Bytes, Rate and Duration
// write quantities the same way everywhere: binary units, three digits that matter.
package terminal
