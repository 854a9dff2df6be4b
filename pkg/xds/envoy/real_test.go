package envoy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// envoyBinary is MERIDIAN_ENVOY, or envoy on the PATH.
func envoyBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("MERIDIAN_ENVOY"); path != "" {
		return path
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("needs Envoy: put envoy on the PATH, or its path in MERIDIAN_ENVOY")
	}
	return path
}

// A real Envoy takes everything that the golden files hold.
func TestEnvoyTakesIt(t *testing.T) {
	binary := envoyBinary(t)
	for _, name := range cases(t) {
		t.Run(name, func(t *testing.T) {
			ix, tr := load(t, name), NewTranslator()
			for _, k := range ix.Proxies() {
				p, err := plan.Build(ix, k)
				if err != nil {
					t.Fatal(err)
				}
				set, err := tr.Translate(p)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "bootstrap.json")
				if err := os.WriteFile(file, bootstrap(t, set), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--log-level", "warn", "-c", file).CombinedOutput()
				if err != nil || strings.Contains(string(out), "eprecated") {
					t.Errorf("%s: %v\n%s", k, err, out)
				}
			}
		})
	}
}

// bootstrap writes a set as a static configuration: what would come beside a resource is put into it.
func bootstrap(t *testing.T, set *Set) []byte {
	t.Helper()
	var clusters, listeners []json.RawMessage
	assignments := map[string]*endpointv3.ClusterLoadAssignment{}
	routes := map[string]*routev3.RouteConfiguration{}
	for _, r := range set.Resources {
		switch m := unpack(t, r.Wire.GetResource()).(type) {
		case *endpointv3.ClusterLoadAssignment:
			assignments[r.Name] = m
		case *routev3.RouteConfiguration:
			routes[r.Name] = m
		}
	}
	for _, r := range set.Resources {
		switch m := unpack(t, r.Wire.GetResource()).(type) {
		case *clusterv3.Cluster:
			if m.GetType() == clusterv3.Cluster_EDS {
				m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
				m.EdsClusterConfig = nil
				m.LoadAssignment = assignments[r.Name]
			}
			clusters = append(clusters, toJSON(t, m))
		case *listenerv3.Listener:
			for _, chain := range m.GetFilterChains() {
				for _, f := range chain.GetFilters() {
					hcm, ok := unpack(t, f.GetTypedConfig()).(*hcmv3.HttpConnectionManager)
					if !ok || hcm.GetRds() == nil {
						continue
					}
					hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes[hcm.GetRds().GetRouteConfigName()]}
					packed, err := anypb.New(hcm)
					if err != nil {
						t.Fatal(err)
					}
					f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
				}
			}
			listeners = append(listeners, toJSON(t, m))
		}
	}
	out, err := json.MarshalIndent(map[string]any{
		"node":            map[string]string{"id": "test", "cluster": "test"},
		"staticResources": map[string]any{"clusters": clusters, "listeners": listeners},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unpack(t *testing.T, a *anypb.Any) proto.Message {
	t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func toJSON(t *testing.T, m proto.Message) json.RawMessage {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
