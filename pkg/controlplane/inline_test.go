package controlplane_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// TestInlineKeysStayInside: a private key that stands in a resource itself reaches the zone, which issues with it,
// and is found neither in the files of a store, nor in a log, nor in what others than administrators get.
func TestInlineKeysStayInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(g *config.Global, z *config.Zone) {
		g.APIServer.HTTP.AllowRemoteWrites, z.APIServer.HTTP.AllowRemoteWrites = true, true
	})
	cert, key, err := ca.Generate(ca.Config{Mesh: "inline", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	line := strings.Split(string(key), "\n")[1]
	b64 := base64.StdEncoding.EncodeToString(key)
	// Parts of the key in every form that it could have somewhere.
	forms := []string{line, b64[:60], b64[60:120], string(block.Bytes[:60])}
	leaks := func(text string) bool {
		for _, f := range forms {
			if strings.Contains(text, f) {
				return true
			}
		}
		return false
	}

	items := map[string]string{
		"/meshes/inline":                       fmt.Sprintf(`{"mtls":{"enabledBackend":"p","backends":[{"name":"p","type":"provided","conf":{"cert":{"inlineString":%q},"key":{"inline":%q}}}]}}`, cert, b64),
		"/meshes/inline/external-services/out": fmt.Sprintf(`{"networking":{"address":"a.example:443","tls":{"enabled":true,"clientCert":{"inlineString":%q},"clientKey":{"inlineString":%q}}},"tags":{"kuma.io/service":"out"}}`, cert, key),
	}
	for _, path := range []string{"/meshes/inline", "/meshes/inline/external-services/out"} {
		w.must("PUT", path, items[path])
		if !leaks(w.must("GET", path, "")) {
			t.Errorf("an administrator is not shown the key in %s", path)
		}
	}
	w.synced()
	for _, k := range []resource.Key{{Kind: resource.KindMesh, Name: "inline"}, {Kind: resource.KindExternalService, Scope: "inline", Name: "out"}} {
		sent, ok := w.global.Store.Config().View().Get(k)
		got, found := w.zone.Store.Config().View().Get(k)
		if !ok || !found || string(sent.Spec) != string(got.Spec) || !leaks(string(got.Spec)) {
			t.Errorf("the zone does not have %s as it is", k)
		}
	}

	check := func(where, text string) {
		t.Helper()
		if leaks(text) {
			t.Errorf("%s shows a key", where)
		}
	}
	for where, cp := range map[string]map[string]string{"global": w.global.Addrs(), "zone": w.zone.Addrs()} {
		base := "http://" + cp["http"]
		for _, path := range []string{"/meshes", "/external-services", "/export", "/config", "/rejections", "/meshes/inline?status=true", "/meshes/inline/external-services/out", "/mesh-insights", "/export?secrets=true", "/backup"} {
			check(where+" "+path, w.do(call{base: base, method: "GET", path: path, remote: true}).body)
			if where == "zone" {
				check(where+" "+path+" from there", w.do(call{base: base, method: "GET", path: path}).body)
			}
		}
		for path, body := range items {
			for _, b := range []string{body, strings.Replace(body, "{", `{"unknown":1,`, 1), body[:len(body)-12]} {
				for _, q := range []string{"", "?dryRun=true"} {
					check(where+" PUT "+path+q, w.do(call{base: base, method: "PUT", path: path + q, body: b, remote: true}).body)
				}
				check(where+" batch with "+path, w.do(call{base: base, method: "PUT", path: "/batch", body: `{"put":[` + b + `]}`, remote: true}).body)
			}
		}
		check(where+" metrics", w.do(call{base: "http://" + cp["diagnostics"], method: "GET", path: "/metrics"}).body)
	}
	check("backup", w.do(call{base: "http://" + w.global.Addrs()["http"], method: "GET", path: "/backup"}).body)

	w.stop()
	check("log of the global", w.globalLog.String())
	check("log of the zone", w.zoneLog.String())
	files := 0
	for _, dir := range []string{w.globalDir, w.zoneDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			check("file "+filepath.Base(path), string(data))
			files++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 4 {
		t.Errorf("only %d files were looked at", files)
	}
}
