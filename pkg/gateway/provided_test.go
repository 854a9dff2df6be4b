package gateway_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// legacyMesh is a mesh with a CA of its own in the shape of the oldest documents.
const legacyMesh = `{"mtls":{"enabled":true,"ca":{"provided":{}}}}`

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// refused fails unless an answer is a 400 that names these fields, and no others.
func (p *plane) refused(what string, a answer, fields ...string) {
	p.t.Helper()
	if a.status != 400 {
		p.t.Fatalf("%s: %d %s", what, a.status, a.body)
	}
	if diff := cmp.Diff(fields, p.fieldsOf(a)); diff != "" {
		p.t.Errorf("%s: %s\n%s", what, diff, a.body)
	}
}

// TestMissingHalves: the secrets of a backend must be there when it is enabled, and not before; those of the oldest
// documents may come later (spec 0.10).
func TestMissingHalves(t *testing.T) {
	p := start(t, setup{})
	cert, key := providedFiles(t).read(t)
	const certField, keyField = "mtls.backends[1].config.cert", "mtls.backends[1].config.key"
	backend := func(cert, key string) string {
		return fmt.Sprintf(`{"name":"p","type":"provided","conf":{"cert":%s,"key":%s}}`, cert, key)
	}
	const builtin = `{"name":"b","type":"builtin"}`
	named := backend(source("secret", "c"), source("secret", "k"))

	// Beside the enabled one it is not looked at, once enabled it is.
	p.must(p.put("/meshes/default", mtls("b", builtin, named)), 200)
	p.must(p.put("/meshes/default", mtls("", builtin, named)), 200)
	p.refused("both missing", p.put("/meshes/default", mtls("p", builtin, named)), certField, keyField)
	p.must(p.put("/meshes/default/secrets/c", `{"data":"`+b64(cert)+`"}`), 201)
	p.refused("key missing", p.put("/meshes/default", mtls("p", builtin, named)), keyField)
	p.refused("key missing, dry", p.put("/meshes/default?dryRun=true", mtls("p", builtin, named)), keyField)
	p.refused("certificate missing", p.put("/meshes/default", mtls("p", builtin, backend(source("secret", "none"), source("secret", "c")))), certField)
	// In a batch they count as they will be.
	item := strings.Replace(mtls("p", builtin, named), "{", `{"type":"Mesh","name":"default",`, 1)
	secret := fmt.Sprintf(`{"type":"Secret","mesh":"default","name":"k","data":%q}`, b64(key))
	p.refused("batch without the key", p.put("/batch", batchOf([]string{item}, nil)), "put[0]."+keyField)
	p.must(p.put("/batch", batchOf([]string{item, secret}, nil)), 200)
	// Not from one to the other, but through off.
	p.refused("switch", p.put("/meshes/default", mtls("b", builtin, named)), "mtls.enabledBackend")
	p.must(p.put("/meshes/default", mtls("", builtin, named)), 200)
	p.must(p.put("/meshes/default", mtls("b", builtin, named)), 200)

	// The oldest shape.
	p.mesh("old")
	p.must(p.put("/meshes/old", legacyMesh), 200)
	again := p.must(p.do("GET", "/meshes/old", ""), 200).body
	for _, form := range []string{again, legacyMesh} {
		p.must(p.put("/meshes/old", form), 200)
	}
	for name, data := range map[string][]byte{"old.ca-provided-cert-provided": cert, "old.ca-provided-key-provided": key} {
		p.must(p.put("/meshes/old/secrets/"+name, `{"data":"`+b64(data)+`"}`), 201)
		p.must(p.put("/meshes/old", again), 200)
	}
	p.must(p.put("/meshes/old", `{}`), 200)
	_, other := providedFiles(t).read(t)
	p.must(p.put("/meshes/old/secrets/old.ca-provided-key-provided", `{"data":"`+b64(other)+`"}`), 200)
	p.refused("halves that do not belong together", p.put("/meshes/old", legacyMesh), "mtls.backends[0].config.cert", "mtls.backends[0].config.key")
}

// TestSecretsInUseStay: a secret that a backend rests on cannot be deleted, but together with what rests on it.
func TestSecretsInUseStay(t *testing.T) {
	cert, key := providedFiles(t).read(t)
	for _, tc := range []struct {
		name, mesh, secret string
		// made says that the control plane makes the secret.
		made bool
	}{
		{"builtin", mtls("b", `{"name":"b","type":"builtin"}`), "m.ca-builtin-key-b", true},
		{"builtin that is off", mtls("", `{"name":"b","type":"builtin"}`), "m.ca-builtin-cert-b", true},
		{"provided", providedMesh(source("secret", "c"), source("secret", "k")), "k", false},
		{"provided that is off", strings.Replace(providedMesh(source("secret", "c"), source("secret", "k")), `"enabledBackend":"p"`, `"enabledBackend":""`, 1), "c", false},
		{"oldest shape", legacyMesh, "m.ca-provided-key-provided", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, setup{})
			p.mesh("m")
			if !tc.made {
				for name, data := range map[string][]byte{"c": cert, "k": key, "m.ca-provided-cert-provided": cert, "m.ca-provided-key-provided": key} {
					p.must(p.put("/meshes/m/secrets/"+name, `{"data":"`+b64(data)+`"}`), 201)
				}
			}
			p.must(p.put("/meshes/m", tc.mesh), 200)
			path, item := "/meshes/m/secrets/"+tc.secret, keyOf("Secret", "m", tc.secret)
			without, whole := `{"type":"Mesh","name":"m"}`, strings.Replace(tc.mesh, "{", `{"type":"Mesh","name":"m",`, 1)

			a := p.do("DELETE", path, "")
			p.refused("alone", a, "name")
			if got := p.problem(a); got.Title != "Could not delete a resource" || got.Details != "Resource is not valid" {
				t.Errorf("%+v", got)
			}
			p.refused("dry", p.do("DELETE", path+"?dryRun=true", ""), "name")
			p.refused("in a batch", p.put("/batch", batchOf(nil, []string{item})), "delete[0].name")
			if a := p.must(p.put("/batch", batchOf([]string{whole}, []string{item})), 400); !slices.Contains(p.fieldsOf(a), "delete[0].name") {
				t.Errorf("with its mesh written as it is: %s", a.body)
			}
			p.must(p.do("GET", path, ""), 200)

			// The state after the batch counts, whatever stands first.
			p.must(p.put("/batch?dryRun=true", batchOf([]string{without}, []string{item})), 200)
			p.must(p.put("/batch?dryRun=true", batchOf(nil, []string{item, keyOf("Mesh", "", "m")})), 200)
			p.must(p.put("/batch", batchOf([]string{without}, []string{item})), 200)
			p.must(p.do("GET", path, ""), 404)
			if tc.made {
				p.must(p.put("/meshes/m", tc.mesh), 200)
			}
			// A mesh takes its secrets along.
			p.must(p.do("DELETE", "/meshes/m", ""), 200)
			p.must(p.do("GET", path, ""), 404)
		})
	}
	// A name that was in use and is again: what a batch brings back is in use.
	p := start(t, setup{})
	p.mesh("m")
	for name, data := range map[string][]byte{"c": cert, "k": key} {
		p.must(p.put("/meshes/m/secrets/"+name, `{"data":"`+b64(data)+`"}`), 201)
	}
	mesh := strings.Replace(providedMesh(source("secret", "c"), source("secret", "k")), "{", `{"type":"Mesh","name":"m",`, 1)
	p.refused("enabled and taken away at once", p.put("/batch", batchOf([]string{mesh}, []string{keyOf("Secret", "m", "k")})), "put[0].mtls.backends[0].config.key", "delete[0].name")
}
