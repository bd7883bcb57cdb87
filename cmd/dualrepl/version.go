package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/versionhandshake"
)

// versionInfo is what `dualrepl version` prints.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source; empty: built without
	Go       string `json:"go"`
	Protocol int    `json:"protocol"` // version of the base protocol
}

func newVersionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of the program and of its protocol",
		Example: "  dualrepl version --json",
		Args:    arguments(),
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := readVersion()
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), v)
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), v)
		return err
	}
	return cmd
}

func (v versionInfo) String() string {
	return fmt.Sprintf("dualrepl %s (protocol %d, %s)", v.Version, v.Protocol, v.Go)
}

func readVersion() versionInfo {
	v := versionInfo{Version: "(unknown)", Protocol: versionhandshake.ProtocolVersion}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Revision = setting.Value
		}
	}
	return v
}
