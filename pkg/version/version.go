// Package version says which build this is.
package version

import (
	"fmt"
	"runtime/debug"
)

// Set at link time with -ldflags "-X github.com/meridian-mesh/meridian/pkg/version.version=…".
var version, gitTag, gitCommit, buildDate string //nolint:gochecknoglobals // the linker sets only these

// Info says which build this is. What is not known is "unknown".
type Info struct {
	Version   string `json:"version"`
	GitTag    string `json:"gitTag"`
	GitCommit string `json:"gitCommit"`
	BuildDate string `json:"buildDate"`
}

// Get gives what was set at link time, else what the Go toolchain noted.
func Get() Info {
	var build debug.BuildInfo
	if b, ok := debug.ReadBuildInfo(); ok {
		build = *b
	}
	return info(Info{version, gitTag, gitCommit, buildDate}, build)
}

func info(set Info, build debug.BuildInfo) Info {
	noted := Info{}
	if v := build.Main.Version; v != "(devel)" {
		noted.Version = v
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			noted.GitCommit = s.Value
		case "vcs.time":
			noted.BuildDate = s.Value
		}
	}
	return Info{
		Version:   either(set.Version, noted.Version),
		GitTag:    either(set.GitTag, noted.GitTag),
		GitCommit: either(set.GitCommit, noted.GitCommit),
		BuildDate: either(set.BuildDate, noted.BuildDate),
	}
}

func either(a, b string) string {
	switch {
	case a != "":
		return a
	case b != "":
		return b
	}
	return "unknown"
}

// Detailed is the text of `version --detailed`, several lines.
func (i Info) Detailed() string {
	return fmt.Sprintf("Product:    Meridian\nVersion:    %s\nGit Tag:    %s\nGit Commit: %s\nBuild Date: %s\n",
		i.Version, i.GitTag, i.GitCommit, i.BuildDate)
}
