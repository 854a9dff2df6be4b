package controlplane_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// TestSecretsStayInside: what is secret is planted wherever it can be, the control planes are used, well and badly, and
// none of it comes out anywhere but where it was asked for: not in logs at debug, configurations, errors, what is seen
// of zones and proxies, metrics, nor in the files of the stores.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	const mark = "pLaNtEd"
	// A mark with a name, so that a leak says which.
	planted := map[string]string{}
	plant := func(name string) string {
		planted[name] = mark + "-" + name
		return planted[name]
	}
	w := newWorld(t, func(g *config.Global, z *config.Zone) {
		g.Defaults.Mesh = "# " + plant("defaults-mesh") + "\n{}"
		z.Defaults.Mesh = "# " + planted["defaults-mesh"] + "\n{}"
	})
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var outputs []struct{ where, text string }
	out := func(where, text string) {
		outputs = append(outputs, struct{ where, text string }{where, text})
	}
	asked := func(r reply) { out("answer", r.body) }
	plain, zone := "http://"+w.global.Addrs()["http"], "http://"+w.zone.Addrs()["http"]

	// Secrets, good and bad bodies.
	w.must("PUT", "/meshes/default/secrets/one", fmt.Sprintf(`{"data":%q}`, encoded(plant("secret"))))
	w.must("PUT", "/global-secrets/two", fmt.Sprintf(`{"data":%q}`, encoded(plant("global-secret"))))
	for _, body := range []string{
		fmt.Sprintf(`{"data":%q`, encoded(plant("broken-json"))),
		fmt.Sprintf(`{"data":{"x":%q}}`, plant("wrong-type")),
		fmt.Sprintf(`{"data":"%s!"}`, plant("no-base64")),
		fmt.Sprintf("data: [%s", plant("broken-yaml")),
	} {
		for _, path := range []string{"/meshes/default/secrets/bad", "/global-secrets/bad"} {
			asked(w.do(call{base: plain, method: "PUT", path: path, body: body}))
			asked(w.do(call{base: plain, method: "PUT", path: path, body: body, header: []string{"Content-Type", "application/yaml"}}))
		}
	}
	// Keys that are none, under the names of signing keys.
	for _, name := range []string{"zone-token-signing-key-7", "user-token-signing-key-7"} {
		w.must("PUT", "/global-secrets/"+name, fmt.Sprintf(`{"data":%q}`, encoded(plant(name))))
	}
	asked(w.do(call{base: plain, method: "POST", path: "/tokens/user", body: `{"name":"a","role":"admin"}`}))
	w.must("POST", "/signing-keys", `{"use":"user"}`)
	// A CA in the mesh itself, good for nothing.
	asked(w.do(call{base: plain, method: "PUT", path: "/meshes/inline", body: fmt.Sprintf(
		`{"mtls":{"enabledBackend":"ca","backends":[{"name":"ca","type":"provided","conf":{"cert":{"inlineString":"x"},"key":{"inlineString":%q}}}]}}`, plant("inline-key"))}))
	asked(w.do(call{base: plain, method: "PUT", path: "/meshes/inline", body: fmt.Sprintf(
		`{"mtls":{"enabledBackend":"ca","backends":[{"name":"ca","type":"provided","conf":{"cert":{"inlineString":"x"},"key":{"inline":%q}}}]}}`, encoded(plant("inline-bytes")))}))
	// A builtin CA: its key is made, and flows.
	w.must("PUT", "/meshes/secure", `{"mtls":{"enabledBackend":"ca","backends":[{"name":"ca","type":"builtin"}]}}`)

	// Tokens, in every place where one can be shown, right or wrong.
	user := w.must("POST", "/tokens/user", `{"name":"ann","role":"admin"}`)
	zoneToken := w.must("POST", "/tokens/zone", `{"zone":"zone-7"}`)
	proxyToken := w.mustZone("POST", "/tokens", `{"mesh":"default","name":"dp-1"}`)
	for name, token := range map[string]string{"user-token": user, "zone-token": zoneToken, "dataplane-token": proxyToken} {
		planted[name] = token[strings.LastIndex(token, ".")+1:] // its signature
	}
	w.synced()
	tokens := []string{user, zoneToken, proxyToken, plant("wrong-token"), "a.b." + plant("wrong-signature")}
	for _, token := range tokens {
		for _, cp := range []map[string]string{w.global.Addrs(), w.zone.Addrs()} {
			asked(w.do(call{base: "https://" + cp["https"], method: "GET", path: "/meshes", remote: true, header: []string{"Authorization", "Bearer " + token}}))
			asked(w.do(call{base: "http://" + cp["http"], method: "GET", path: "/meshes", remote: true, header: []string{"Authorization", "Bearer " + token}}))
			asked(w.do(call{base: "http://" + cp["http"], method: "GET", path: "/meshes?token=" + token, header: []string{"Authorization", "Basic " + token}}))
		}
		body := fmt.Sprintf(`{"mesh":"default","name":"dp-2","dataplaneToken":%q,"dataplaneResource":"{\"networking\":{\"address\":\"127.0.0.1\",\"inbound\":[{\"port\":1,\"tags\":{\"kuma.io/service\":\"web\"}}]}}"}`, token)
		asked(w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: "POST", path: "/bootstrap", body: body}))
		asked(w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: "POST", path: "/goodbye", body: body}))
		for _, at := range []struct{ addr, rpc, request string }{
			{w.global.Addrs()["kds"], "meridian.kds.v1.SyncService/Sync", `{"hello":{"zone":"zone-6","store":"s"}}`},
			{w.zone.Addrs()["dpServer"], "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", `{"node":{"id":"default.dp-2"},"typeUrl":"type.googleapis.com/envoy.config.cluster.v3.Cluster"}`},
			{w.global.Addrs()["https"], "meridian.api.v1.ResourceService/List", `{"plural":"meshes"}`},
		} {
			if err := w.invoke(t.Context(), w.dial(at.addr, true, nil), at.rpc, at.request, token); err != nil {
				out("error of "+at.rpc, err.Error())
			}
		}
	}
	_ = w.proxy("dp-1", proxyToken) // it has an insight
	w.synced()

	// Private keys that the control planes have made.
	for where, cp := range map[string]store.Store{"global": w.global.Store, "zone": w.zone.Store} {
		for _, kind := range []resource.Kind{resource.KindSecret, resource.KindGlobalSecret} {
			for o := range cp.Config().View().Scan(store.OfKind(kind)) {
				s, err := resource.Decode[systemv1.Secret](o)
				if err != nil {
					t.Fatal(err)
				}
				data := s.GetData().GetValue()
				key, err := auth.ParseSigningKey(data)
				if err != nil {
					continue // a certificate, or what was planted above
				}
				switch k := key.Signer.(type) {
				case *ecdsa.PrivateKey:
					raw, err := k.Bytes()
					if err != nil {
						t.Fatal(err)
					}
					planted[where+" "+o.Key.String()] = string(raw)
				case *rsa.PrivateKey:
					planted[where+" "+o.Key.String()] = string(k.Primes[0].Bytes())
				}
				if text, isPEM := strings.CutPrefix(string(data), "-----BEGIN "); isPEM {
					planted[where+" "+o.Key.String()+" in PEM"] = text[len(text)/2 : len(text)/2+20]
				}
			}
		}
	}
	if len(planted) < 20 {
		t.Errorf("only %d secrets are planted", len(planted))
	}

	// All that comes out without being asked for.
	for where, base := range map[string]string{"global": plain, "zone": zone} {
		for _, path := range []string{
			"/", "/config", "/versions", "/meshes", "/zones", "/zones+insights", "/zone-insights", "/dataplanes", "/dataplanes+insights", "/dataplane-insights",
			"/status/zones", "/rejections", "/positions?revision=1", "/export", "/openapi.yaml", "/mesh-insights", "/global-public-keys", "/meshes/default/public-keys",
		} {
			out(where+" "+path, w.do(call{base: base, method: "GET", path: path}).body)
		}
		for _, path := range []string{"/secrets", "/global-secrets", "/export?secrets=true", "/backup"} {
			out(where+" "+path+" from afar", w.do(call{base: base, method: "GET", path: path, remote: true}).body)
		}
	}
	out("backup", w.do(call{base: plain, method: "GET", path: "/backup"}).body)
	for where, cp := range map[string]map[string]string{"global": w.global.Addrs(), "zone": w.zone.Addrs()} {
		for _, path := range []string{"/metrics", "/ready", "/healthy"} {
			out(where+" "+path, w.do(call{base: "http://" + cp["diagnostics"], method: "GET", path: path}).body)
		}
	}
	w.stop()
	out("log of the global", w.globalLog.String())
	out("log of the zone", w.zoneLog.String())
	for _, dir := range []string{w.globalDir, w.zoneDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, ".key") { // the keys of the control plane's own certificates
				return err
			}
			data, err := os.ReadFile(path)
			out("file "+filepath.Base(dir)+"/"+filepath.Base(path), string(data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range outputs {
		for name, secret := range planted {
			quoted, err := json.Marshal(secret)
			if err != nil {
				t.Fatal(err)
			}
			for _, form := range []string{secret, encoded(secret), strings.Trim(string(quoted), `"`)} {
				if i := strings.Index(o.text, form); i >= 0 {
					t.Errorf("%s shows %s: …%.120q…", o.where, name, o.text[max(0, i-60):])
					break
				}
			}
		}
	}
}
