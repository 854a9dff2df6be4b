package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A CA that stands in its mesh reaches a zone, which shows its key to nobody on its machine and keeps it encrypted:
// after a restart without the global it issues with it. What hides the key is written back and keeps it.
func TestProvidedCAInTheMesh(t *testing.T) {
	envoy(t)
	w := processes{}
	global := w.global(t)
	zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
	certFile, keyFile, serial := ownCA(t)
	read := func(file string) string {
		b, err := os.ReadFile(file)
		return string(must(t, b, err))
	}
	cert, key := read(certFile), read(keyFile)
	mesh := func(key string) string {
		return fmt.Sprintf(`{"type": "Mesh", "name": "default", "mtls": {"enabledBackend": "mine", "backends": [
{"name": "mine", "type": "provided", "conf": {"cert": {"inlineString": %q}, "key": {"inlineString": %q}}}]}}`, cert, key)
	}
	put(t, global, "/meshes/default", mesh(key))
	live(t, global, "zone-1", put(t, global, "/meshes/default", mesh("*****")), 5*time.Second)

	resp, err := http.Get("http://" + zone.addr("http") + "/meshes/default")
	must(t, resp, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if body := string(must(t, raw, err)); strings.Contains(body, strings.Split(key, "\n")[1]) || !strings.Contains(body, `"*****"`) {
		t.Errorf("the zone shows %s", body)
	}

	token := dataplaneToken(t, zone, "")
	global.kill(t)
	zone.kill(t)
	zone.start(t)

	pairOf(t, zone, token, serial)
}
