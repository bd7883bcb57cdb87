//go:build !linux

package transportmux

import "github.com/dualrepl/dualrepl/transport"

// limitUnsent knows how on Linux only.
func limitUnsent(transport.Wire) {}
