package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRevokedProxy: an Envoy whose token is taken back keeps what it has and gets nothing more; nobody sends to it, and
// its traffic goes on. When the revocation is deleted it comes back and catches up.
func TestRevokedProxy(t *testing.T) {
	envoy(t)
	w := processes{}
	global := w.global(t)
	zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
	others := dataplaneToken(t, zone, "")
	for _, version := range []string{"v1", "v2"} {
		w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", version), token: others})
	}
	token := dataplaneToken(t, zone, "web")
	s := &stage{zone: zone, outbound: freePort(t)}
	s.web = w.proxy(t, zone, proxyOptions{dataplane: web(t, "web", s.outbound), token: token})
	s.reaches(t, 5*time.Second, "v1", "v2")

	put(t, global, "/revocations/"+tokenID(t, token), `{"note":"stolen"}`)
	began := time.Now()
	until(t, 5*time.Second, "the revoked proxy's dataplane goes", func(ctx context.Context) error {
		var dp map[string]any
		if err := zone.client().Get(ctx, "/meshes/default/dataplanes/web", &dp); status(err) != http.StatusNotFound {
			return errors.New("it is there")
		}
		return nil
	})
	t.Logf("the dataplane of the revoked proxy went after %s", time.Since(began))
	rev := put(t, global, "/meshes/default/traffic-routes/web", route(100, 0))
	live(t, global, "zone-1", rev, 5*time.Second)
	s.reaches(t, 2*time.Second, "v1", "v2") // as before: it has got no route

	_, err := global.client().Delete(t.Context(), "/revocations/"+tokenID(t, token))
	must(t, 0, err)
	// Envoy asks again after at most 30 s.
	s.reaches(t, 40*time.Second, "v1")
}

// tokenID is a token's jti.
func tokenID(t *testing.T, token string) string {
	t.Helper()
	var claims struct{ Jti string }
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	return must(t, claims.Jti, err)
}
