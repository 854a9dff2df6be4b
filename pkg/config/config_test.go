package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write keys.md anew")

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cp.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDefaults(t *testing.T) {
	g, warnings, err := LoadGlobal(Source{Environ: []string{"HOME=/h", "PATH=/bin"}})
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	// The contract, in its own words.
	want := map[string]any{
		"environment": "universal", "mode": "global",
		"general.workDir": "/h/.meridian/global", "general.tlsCertFile": "", "general.tlsKeyFile": "",
		"store.type": "sqlite", "store.sqlite.path": "/h/.meridian/global/global-cp.db", "store.encryptionKeyFile": "/h/.meridian/global/store.key",
		"apiServer.http.enabled": true, "apiServer.http.interface": "127.0.0.1", "apiServer.http.port": 5681, "apiServer.http.allowRemoteWrites": false,
		"apiServer.https.enabled": true, "apiServer.https.interface": "0.0.0.0", "apiServer.https.port": 5682,
		"apiServer.https.tlsCertFile": "", "apiServer.https.tlsKeyFile": "",
		"apiServer.auth.type": "tokens", "apiServer.auth.clientCertsDir": "", "apiServer.auth.allowFromLocalhost": true,
		"apiServer.readOnly": false, "apiServer.corsAllowedDomains": []string{},
		"adminServer.local.enabled": false, "adminServer.local.port": 5679, "general.advertisedHostname": "",
		"multizone.global.kds.interface": "0.0.0.0", "multizone.global.kds.grpcPort": 5685, "multizone.global.kds.tlsCertFile": "",
		"multizone.global.kds.tlsKeyFile": "", "multizone.global.kds.clientCertsDir": "", "multizone.global.kds.auth.type": "zoneToken",
		"diagnostics.interface": "127.0.0.1", "diagnostics.serverPort": 5680, "diagnostics.debugEndpoints": false,
		"defaults.skipMeshCreation": false, "defaults.mesh": "",
		"limits.objectBytes": Size(512 << 10), "limits.bodyBytes": Size(1 << 20), "limits.batchBytes": Size(32 << 20), "limits.batchItems": Count(10_000), "limits.jsonDepth": Count(64), "limits.yamlAliasGrowth": Count(10),
		"limits.headerBytes": Size(64 << 10), "limits.headerSeconds": Count(10), "limits.pageItems": Count(10_000), "limits.pageBytes": Size(32 << 20),
		"limits.answerBytes": Size(128 << 20), "limits.waits": Count(1000), "limits.watches": Count(1000),
		"limits.zoneObjects": Count(200_000), "limits.zoneBytes": Size(1 << 30), "limits.zoneChangesPerSecond": Count(2000),
	}
	if diff := cmp.Diff(want, flat(g)); diff != "" {
		t.Error(diff)
	}
	z, warnings, err := LoadZone(Source{Environ: []string{"HOME=/h"}})
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	for path, value := range map[string]any{
		"mode": "standalone", "general.workDir": "/h/.meridian/zones/default",
		"store.sqlite.path": "/h/.meridian/zones/default/zone-cp.db", "store.encryptionKeyFile": "/h/.meridian/zones/default/store.key",
		"multizone.zone.kds.discardLocal": false, "multizone.zone.kds.resync": false,
		"multizone.zone.name": "default", "multizone.zone.globalAddress": "", "multizone.zone.kds.rootCaFile": "", "multizone.zone.kds.tlsSkipVerify": false,
		"multizone.zone.kds.tokenFile": "", "multizone.zone.kds.tlsCertFile": "", "multizone.zone.kds.tlsKeyFile": "",
		"dpServer.interface": "0.0.0.0", "dpServer.port": 5678, "dpServer.tlsCertFile": "", "dpServer.tlsKeyFile": "", "dpServer.auth.type": "dpToken", "dpServer.auth.acceptLegacyTokens": false,
		"dnsServer.interface": "127.0.0.1", "dnsServer.port": 5653,
		"monitoringAssignmentServer.interface": "127.0.0.1", "monitoringAssignmentServer.grpcPort": 5676,
		"limits.adsStreams": Count(20_000), "limits.nodeMetadataBytes": Size(256 << 10),
	} {
		want[path] = value
	}
	for path := range want {
		if strings.HasPrefix(path, "multizone.global.") || strings.HasPrefix(path, "limits.zone") {
			delete(want, path)
		}
	}
	if diff := cmp.Diff(want, flat(z)); diff != "" {
		t.Error(diff)
	}
}

func flat(c any) map[string]any {
	out := map[string]any{}
	for _, k := range keysOf(c) {
		out[k.path] = k.value.Interface()
	}
	return out
}

// TestKeysTable holds keys.md, to which the manual leads, to the code.
func TestKeysTable(t *testing.T) {
	got := table()
	if *update {
		if err := os.WriteFile("keys.md", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("keys.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("keys.md is not up to date (run with -update):\n%s", diff)
	}
	manual, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(manual), "(../pkg/config/keys.md)") {
		t.Error("docs/operations.md does not lead to keys.md")
	}
}

func table() string {
	g, z := DefaultGlobal(), DefaultZone()
	g.complete("$HOME")
	z.Multizone.Zone.Name = "<zone>"
	z.complete("$HOME")
	z.Multizone.Zone.Name = "default"
	type row struct{ path, env, value, help, in string }
	var rows []row
	at := map[string]int{}
	for _, c := range []struct {
		name string
		keys []key
	}{{"global", keysOf(&g)}, {"zone", keysOf(&z)}} {
		for _, k := range c.keys {
			value := fmt.Sprintf("`%v`", k.value.Interface())
			if kind := k.value.Kind(); kind == reflect.String && k.value.Len() == 0 || kind == reflect.Slice && k.value.Len() == 0 {
				value = "–"
			}
			if strings.HasSuffix(k.path, "tlsCertFile") || strings.HasSuffix(k.path, "tlsKeyFile") {
				if !strings.HasPrefix(k.path, "general.") && k.path != "multizone.zone.kds.tlsCertFile" && k.path != "multizone.zone.kds.tlsKeyFile" {
					value = "that of `general`, else made in `workDir`"
				}
			}
			i, ok := at[k.path]
			if !ok {
				i = len(rows)
				at[k.path] = i
				rows = append(rows, row{k.path, Variable(k.path), value, k.help, c.name})
				continue
			}
			rows[i].in = "both"
			if rows[i].value != value {
				rows[i].value += ", zone: " + value
			}
		}
	}
	var b strings.Builder
	b.WriteString("| key | environment | default | of | meaning |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", r.path, r.env, r.value, r.in, r.help)
	}
	return b.String()
}

func TestVariable(t *testing.T) {
	for path, want := range map[string]string{
		"apiServer.http.port":                   "MERIDIAN_API_SERVER_HTTP_PORT",
		"apiServer.https.tlsCertFile":           "MERIDIAN_API_SERVER_HTTPS_TLS_CERT_FILE",
		"multizone.zone.kds.rootCaFile":         "MERIDIAN_MULTIZONE_ZONE_KDS_ROOT_CA_FILE",
		"multizone.global.kds.grpcPort":         "MERIDIAN_MULTIZONE_GLOBAL_KDS_GRPC_PORT",
		"monitoringAssignmentServer.grpcPort":   "MERIDIAN_MONITORING_ASSIGNMENT_SERVER_GRPC_PORT",
		"general.dnsCacheTTL":                   "MERIDIAN_GENERAL_DNS_CACHE_TTL",
		"dnsServer.CIDR":                        "MERIDIAN_DNS_SERVER_CIDR",
		"store.sqlite.path":                     "MERIDIAN_STORE_SQLITE_PATH",
		"store.encryptionKeyFile":               "MERIDIAN_STORE_ENCRYPTION_KEY_FILE",
		"apiServer.corsAllowedDomains":          "MERIDIAN_API_SERVER_CORS_ALLOWED_DOMAINS",
		"bootstrapServer.params.xdsHost":        "MERIDIAN_BOOTSTRAP_SERVER_PARAMS_XDS_HOST",
		"guiServer.apiServerUrl":                "MERIDIAN_GUI_SERVER_API_SERVER_URL",
		"diagnostics.debugEndpoints":            "MERIDIAN_DIAGNOSTICS_DEBUG_ENDPOINTS",
		"runtime.universal.dataplaneCleanupAge": "MERIDIAN_RUNTIME_UNIVERSAL_DATAPLANE_CLEANUP_AGE",
	} {
		if got := Variable(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := variableOf("dpServer.hds.checkDefaults.noTrafficInterval"); got != "DP_SERVER_HDS_CHECK_NO_TRAFFIC_INTERVAL" {
		t.Error(got)
	}
}

func TestEveryKeyByFileAndByEnvironment(t *testing.T) {
	for _, kind := range []struct {
		name string
		make func() any
	}{
		{"global", func() any { c := DefaultGlobal(); return &c }},
		{"zone", func() any { c := DefaultZone(); return &c }},
	} {
		for _, k := range keysOf(kind.make()) {
			var text string
			var want any
			switch v := k.value.Interface().(type) {
			case bool:
				want, text = !v, fmt.Sprint(!v)
			case int:
				want, text = v+1, fmt.Sprint(v+1)
			case Size:
				want, text = 2*v, (2 * v).String()
			case Count:
				want, text = v+1, fmt.Sprint(v+1)
			case string:
				want, text = "x/y", "x/y"
			case []string:
				want, text = []string{"a", "b"}, "[a, b]"
			default:
				t.Fatalf("%s: no test for a %T", k.path, v)
			}
			parts := strings.Split(k.path, ".")
			inFile := ""
			for i, p := range parts {
				inFile += strings.Repeat("  ", i) + p + ":"
				if i == len(parts)-1 {
					inFile += " " + text
				}
				inFile += "\n"
			}
			for _, src := range []Source{
				{File: write(t, inFile)},
				{Environ: []string{Variable(k.path) + "=" + strings.Trim(text, "[]")}},
				{Environ: []string{"KUMA_" + variableOf(k.path) + "=" + strings.Trim(text, "[]")}},
				{File: write(t, inFile), Environ: []string{"KUMA_" + variableOf(k.path) + "=" + strings.Trim(text, "[]"), "X=y"}},
			} {
				c := kind.make()
				warnings, err := load(c, kind.make(), src)
				if err != nil || warnings != nil {
					t.Errorf("%s %s: %v %v", kind.name, k.path, err, warnings)
				}
				if diff := cmp.Diff(want, flat(c)[k.path]); diff != "" {
					t.Errorf("%s %s:\n%s", kind.name, k.path, diff)
				}
			}
		}
	}
}

func TestOrder(t *testing.T) {
	file := write(t, "apiServer:\n  http:\n    port: 1\n  https:\n    port: 2\ndiagnostics:\n  serverPort: 3\n")
	c, _, err := LoadGlobal(Source{File: file, Environ: []string{
		"HOME=/h", "MERIDIAN_API_SERVER_HTTP_PORT=11", "KUMA_API_SERVER_HTTP_PORT=12", "KUMA_DIAGNOSTICS_SERVER_PORT=13",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if c.APIServer.HTTP.Port != 11 || c.APIServer.HTTPS.Port != 2 || c.Diagnostics.ServerPort != 13 {
		t.Errorf("%+v", c)
	}
}

func TestZoneAliasesAndDerived(t *testing.T) {
	file := write(t, `
mode: remote
environment: universal
general:
  tlsCertFile: /c
  tlsKeyFile: /k
multizone:
  remote:
    zone: zone-1
    globalAddress: grpcs://global
    kds:
      rootCaFile: /ca
      refreshInterval: 1s
dpServer:
  tlsCertFile: /dc
  tlsKeyFile: /dk
  hds:
    enabled: false
apiServer: # all commented out
defaults:
  mesh:
    type: Mesh
    name: default
`)
	c, warnings, err := LoadZone(Source{File: file, Environ: []string{"HOME=/h"}})
	if err != nil {
		t.Fatal(err)
	}
	z := c.Multizone.Zone
	if c.Mode != "zone" || z.Name != "zone-1" || z.GlobalAddress != "grpcs://global:5685" || z.KDS.RootCAFile != "/ca" {
		t.Errorf("%+v", c)
	}
	if c.General.WorkDir != "/h/.meridian/zones/zone-1" || c.APIServer.HTTPS.TLSCertFile != "/c" || c.DPServer.TLSKeyFile != "/dk" {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(c.Defaults.Mesh, "name: default") {
		t.Errorf("%q", c.Defaults.Mesh)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "dpServer.hds.enabled") || !strings.Contains(warnings[1], "multizone.remote.kds.refreshInterval") {
		t.Errorf("%q", warnings)
	}
	for _, name := range []string{"MERIDIAN_MULTIZONE_REMOTE_ZONE", "KUMA_MULTIZONE_REMOTE_ZONE", "KUMA_MULTIZONE_ZONE_NAME"} {
		c, _, err := LoadZone(Source{Environ: []string{"HOME=/h", name + "=zone-9"}})
		if err != nil || c.Multizone.Zone.Name != "zone-9" {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

func TestRefused(t *testing.T) {
	tests := map[string]struct {
		file, env string
		want      []string // parts of the error, which is one line
	}{
		"unknown key":            {file: "apiServer:\n  http:\n    prot: 1\n", want: []string{"cp.yaml:3: apiServer.http.prot: unknown key"}},
		"unknown group":          {file: "apiserver:\n  http: {}\n", want: []string{"cp.yaml:1: apiserver: unknown key"}},
		"unknown in a flow":      {file: "apiServer: {http: {port: 1, x: 2}}\n", want: []string{"cp.yaml:1: apiServer.http.x: unknown key"}},
		"not a port":             {file: "\napiServer:\n  http:\n    port: 65536\n", want: []string{"cp.yaml:4: apiServer.http.port: must be a port"}},
		"port as a float":        {file: "apiServer:\n  http:\n    port: 1.5\n", want: []string{"apiServer.http.port"}},
		"no bool":                {file: "apiServer:\n  readOnly: nope\n", want: []string{":2: apiServer.readOnly: must be true or false"}},
		"no text":                {file: "store:\n  type: 7\n", want: []string{":2: store.type: must be text"}},
		"no list":                {file: "apiServer:\n  corsAllowedDomains: x\n", want: []string{":2: apiServer.corsAllowedDomains: must be a list"}},
		"no mapping":             {file: "apiServer: 7\n", want: []string{":1: apiServer: must be a mapping"}},
		"mapping for text":       {file: "store:\n  type: {a: b}\n", want: []string{"store.type: must be text"}},
		"syntax":                 {file: "a: b\n c: d\n", want: []string{"cp.yaml:"}},
		"tab":                    {file: "apiServer:\n\thttp: {}\n", want: []string{"cp.yaml:"}},
		"list on top":            {file: "- a\n", want: []string{"cp.yaml"}},
		"twice":                  {file: "store:\n  type: memory\nstore:\n  type: sqlite\n", want: []string{"cp.yaml:3", "store"}},
		"two documents":          {file: "store:\n  type: memory\n---\nmode: global\n", want: []string{"2 documents"}},
		"alias and key":          {file: "apiServer:\n  port: 1\n  http:\n    port: 2\n", want: []string{"apiServer.port", "apiServer.http.port"}},
		"bad store":              {file: "store:\n  type: postgres\n", want: []string{"store.type: must be sqlite or memory"}},
		"other mode":             {file: "mode: zone\n", want: []string{"mode: must be global"}},
		"kubernetes":             {file: "environment: kubernetes\n", want: []string{"environment: must be universal"}},
		"half a pair":            {file: "apiServer:\n  https:\n    tlsCertFile: x\n", want: []string{"apiServer.https.tlsKeyFile: is needed"}},
		"bad origin":             {file: "apiServer:\n  corsAllowedDomains: ['(']\n", want: []string{"apiServer.corsAllowedDomains[0]"}},
		"no CAs":                 {file: "multizone:\n  global:\n    kds:\n      auth:\n        type: clientCert\n", want: []string{"multizone.global.kds.clientCertsDir: is needed"}},
		"unknown variable":       {env: "MERIDIAN_API_SERVER_HTTP_PROT=1", want: []string{"MERIDIAN_API_SERVER_HTTP_PROT: unknown variable"}},
		"bad variable":           {env: "MERIDIAN_API_SERVER_HTTP_PORT=x", want: []string{"MERIDIAN_API_SERVER_HTTP_PORT", "apiServer.http.port", "65535"}},
		"bad published variable": {env: "KUMA_API_SERVER_READ_ONLY=x", want: []string{"KUMA_API_SERVER_READ_ONLY"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			src := Source{Environ: []string{"HOME=/h"}}
			if tt.file != "" {
				src.File = write(t, tt.file)
			}
			if tt.env != "" {
				src.Environ = append(src.Environ, tt.env)
			}
			_, _, err := LoadGlobal(src)
			if err == nil {
				t.Fatal("taken")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
	for name, tt := range map[string]struct{ file, want string }{
		"no name":         {"multizone:\n  zone:\n    globalAddress: grpcs://g:1\n", "multizone.zone.name: is needed"},
		"bad name":        {"multizone:\n  zone:\n    name: A.b\n", "multizone.zone.name: must be a DNS label"},
		"global":          {"multizone:\n  zone:\n    name: global\n", "multizone.zone.name"},
		"plain":           {"multizone:\n  zone:\n    name: a\n    globalAddress: grpc://g:1\n", "multizone.zone.globalAddress: must be grpcs://host:port"},
		"no scheme":       {"multizone:\n  zone:\n    name: a\n    globalAddress: 'g:1'\n", "multizone.zone.globalAddress"},
		"zone, no global": {"mode: zone\nmultizone:\n  zone:\n    name: a\n", "multizone.zone.globalAddress: is needed"},
		"standalone with": {"mode: standalone\nmultizone:\n  zone:\n    name: a\n    globalAddress: grpcs://g:1\n", "mode: is standalone"},
		"bad auth":        {"dpServer:\n  auth:\n    type: x\n", "dpServer.auth.type: must be dpToken or none"},
		"legacy tokens":   {"dpServer:\n  auth:\n    acceptLegacyTokens: true\nmultizone:\n  zone:\n    name: a\n    globalAddress: grpcs://g:1\n", "dpServer.auth.acceptLegacyTokens: is for a standalone"},
		"alias twice":     {"multizone:\n  remote:\n    zone: a\n  zone:\n    name: b\n", "which is given too"},
	} {
		if _, _, err := LoadZone(Source{File: write(t, tt.file), Environ: []string{"HOME=/h"}}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := LoadGlobal(Source{}); err == nil || !strings.HasPrefix(err.Error(), "general.workDir: ") {
		t.Errorf("no HOME: %v", err)
	}
	if _, _, err := LoadGlobal(Source{File: "/no/such.yaml"}); err == nil || !strings.Contains(err.Error(), "/no/such.yaml") {
		t.Error(err)
	}
	if _, _, err := LoadGlobal(Source{File: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Error(err)
	}
	if _, _, err := LoadZone(Source{Environ: []string{"HOME=/h", "MERIDIAN_MULTIZONE_ZONE_NAME=a", "MERIDIAN_MULTIZONE_REMOTE_ZONE=b"}}); err == nil {
		t.Error("two names of one key, and nobody says which counts")
	}
}

func TestIgnoredWithWarning(t *testing.T) {
	file := write(t, "reports:\n  enabled: true\nstore:\n  postgres:\n    host: x\n    tls:\n      mode: verifyFull\ndpServer:\n  port: 1\nguiServer:\nxdsServer:\n  grpcPort: 5678\n")
	_, warnings, err := LoadGlobal(Source{File: file, Environ: []string{
		"HOME=/h", "KUMA_STORE_POSTGRES_PASSWORD=secret", "MERIDIAN_DP_SERVER_PORT=1", "KUMA_DP_SERVER_HDS_CHECK_TIMEOUT=1s", "KUMA_SOMETHING_ELSE=1", "KUMA_DATAPLANE_NAME=x",
	}})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(warnings, "\n")
	for _, name := range []string{
		"reports.enabled", "store.postgres.host", "store.postgres.tls.mode", "dpServer.port", "xdsServer.grpcPort",
		"KUMA_STORE_POSTGRES_PASSWORD", "MERIDIAN_DP_SERVER_PORT", "KUMA_DP_SERVER_HDS_CHECK_TIMEOUT",
	} {
		if !strings.Contains(all, name+" is ignored: ") {
			t.Errorf("no warning of %s in\n%s", name, all)
		}
	}
	if len(warnings) != 8 || strings.Contains(all, "secret") {
		t.Errorf("%q", warnings)
	}
}

func TestNoKeyIsBothKnownAndIgnored(t *testing.T) {
	g, z := DefaultGlobal(), DefaultZone()
	for _, k := range append(keysOf(&g), keysOf(&z)...) {
		if why, ok := ignoredKeys()[k.path]; ok {
			t.Errorf("%s: %s", k.path, why)
		}
		if k.help == "" {
			t.Errorf("%s: no help", k.path)
		}
	}
	for alias, path := range olderNames() {
		if _, ok := ignoredKeys()[alias]; ok {
			t.Errorf("%s is an alias of %s and ignored", alias, path)
		}
	}
}

func TestJSON(t *testing.T) {
	c := DefaultZone()
	c.Defaults.Mesh = "key: secret"
	out, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "secret") || c.Defaults.Mesh != "key: secret" {
		t.Errorf("%s", out)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"environment", "mode", "general", "store", "apiServer", "multizone", "dpServer", "diagnostics", "dnsServer", "monitoringAssignmentServer", "defaults"} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
	if got["defaults"].(map[string]any)["mesh"] != "*****" {
		t.Errorf("%s", out)
	}

	global, _, err := LoadGlobal(Source{Environ: []string{"HOME=/h", "MERIDIAN_API_SERVER_CORS_ALLOWED_DOMAINS="}})
	if err != nil {
		t.Fatal(err)
	}
	if out, err = global.JSON(); err != nil || !strings.Contains(string(out), `"corsAllowedDomains": []`) {
		t.Errorf("an empty list: %s, %v", out, err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add("apiServer:\n  http:\n    port: 1\n")
	f.Add("a: &a [*a]\n")
	f.Add("<<: {mode: global}\n")
	f.Add("? [x]\n: y\n")
	f.Add("defaults: {mesh: {a: {b: c}}}")
	f.Fuzz(func(t *testing.T, text string) {
		c, other := DefaultGlobal(), DefaultZone()
		if _, err := load(&c, &other, Source{File: write(t, text)}); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
