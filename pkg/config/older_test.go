package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentsConfigurations takes what the three documents show as a configuration for one: nothing in it is unknown,
// what has a meaning has it, and all else is warned of.
func TestDocumentsConfigurations(t *testing.T) {
	for _, document := range []string{"1.1", "0.6", "0.4"} {
		raw, err := os.ReadFile("../../e2e/transcripts/testdata/" + document + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var examples []struct{ URL, Answer string }
		if err := json.Unmarshal(raw, &examples); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range examples {
			if !strings.HasSuffix(e.URL, "/config") {
				continue
			}
			found = true
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(e.Answer), 0o600); err != nil {
				t.Fatal(err)
			}
			// The store is not there, and a port was moved by one of its names.
			c, warnings, err := LoadZone(Source{File: file, Environ: []string{"HOME=/h", "KUMA_ADMIN_SERVER_PUBLIC_PORT=15684", "KUMA_ADMIN_SERVER_PUBLIC_ENABLED=true"}})
			if err != nil {
				t.Fatalf("%s: %v", document, err)
			}
			if c.APIServer.HTTPS.Port != 15684 || c.APIServer.Auth.ClientCertsDir != "/etc/kuma.io/kuma-cp/admin-api/tls/allowed-client-certs.d" ||
				c.APIServer.HTTPS.TLSCertFile != "/etc/kuma.io/kuma-cp/admin-api/tls/server.cert" || c.APIServer.HTTPS.TLSKeyFile != "/etc/kuma.io/kuma-cp/admin-api/tls/server.key" ||
				c.AdminServer.Local.Enabled || c.AdminServer.Local.Port != 5679 || c.General.AdvertisedHostname != "kuma-control-plane.internal" ||
				c.APIServer.HTTP.Port != 5681 || c.DPServer.Port != 5678 || c.Store.Type != StoreMemory {
				t.Errorf("%s: %+v", document, c)
			}
			all := strings.Join(warnings, "\n")
			for _, want := range []string{
				"KUMA_ADMIN_SERVER_PUBLIC_ENABLED is ignored", "adminServer.public.enabled is ignored", "adminServer.apis.dataplaneToken.enabled is ignored",
				"dataplaneTokenServer.local.port is ignored", "sdsServer.grpcPort is ignored", "reports.enabled is ignored",
			} {
				if !strings.Contains(all, want) {
					t.Errorf("%s: no word that %s", document, want)
				}
			}
		}
		if !found {
			t.Errorf("%s shows no configuration", document)
		}
	}
}
