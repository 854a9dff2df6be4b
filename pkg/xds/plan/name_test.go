package plan

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	tests := map[string]struct {
		tags            map[string]string
		cluster, server string
	}{
		"no tags": {nil, "backend", "backend{mesh=default}"},
		"tags":    {map[string]string{"version": "v1", "color": "red"}, "backend{color=red,version=v1}", "backend{mesh=default,color=red,version=v1}"},
	}
	for name, tt := range tests {
		if got := ClusterName("backend", tt.tags); got != tt.cluster {
			t.Errorf("%s: cluster %s, want %s", name, got, tt.cluster)
		}
		if got := ServerName("default", "backend", tt.tags); got != tt.server {
			t.Errorf("%s: server %s, want %s", name, got, tt.server)
		}
	}
}

// A server name is compared without regard to case, and has to fit.
func TestOddServerNamesStayApart(t *testing.T) {
	long := strings.Repeat("a", 300)
	odd := []map[string]string{{"v": "x"}, {"v": "X"}, {"V": "x"}, {"v": long}, {"v": long + "a"}}
	seen := map[string]bool{}
	for _, tags := range odd {
		for _, service := range []string{"backend", long} {
			name := ServerName("default", service, tags)
			if len(name) > maxServerName || strings.ToLower(name) != name || seen[name] {
				t.Errorf("%d bytes, seen %v: %s", len(name), seen[name], name)
			}
			seen[name] = true
		}
	}
}
