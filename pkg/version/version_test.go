package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestInfo(t *testing.T) {
	build := debug.BuildInfo{
		Main:     debug.Module{Version: "v0.1.0"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-11-21T12:00:00Z"}},
	}
	devel := debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}
	for name, tt := range map[string]struct {
		set   Info
		build debug.BuildInfo
		want  Info
	}{
		"nothing known": {Info{}, devel, Info{"unknown", "unknown", "unknown", "unknown"}},
		"noted":         {Info{}, build, Info{"v0.1.0", "unknown", "abc", "2026-11-21T12:00:00Z"}},
		"set":           {Info{"1.2.3", "v1.2.3", "def", "today"}, build, Info{"1.2.3", "v1.2.3", "def", "today"}},
	} {
		if got := info(tt.set, tt.build); got != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, part := range []string{"1.2.3", "v1.2.3", "def", "today"} {
		if got := (Info{"1.2.3", "v1.2.3", "def", "today"}).Detailed(); !strings.Contains(got, part) {
			t.Errorf("no %s in %q", part, got)
		}
	}
	if Get().Version == "" {
		t.Error("no version")
	}
}
