package controlplane_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
)

// newAlone starts a standalone zone control plane only.
func newAlone(t *testing.T, legacy bool) *world {
	t.Helper()
	w := &world{t: t, zoneDir: t.TempDir(), zoneLog: &journal{}, transports: map[transportKey]*http.Transport{}}
	c := config.DefaultZone()
	c.General.WorkDir, c.Mode, c.Multizone.Zone.Name = w.zoneDir, config.ModeStandalone, "default"
	c.Store = config.Store{Type: config.StoreMemory, EncryptionKeyFile: filepath.Join(w.zoneDir, "store.key")}
	c.APIServer.HTTP.Port, c.APIServer.HTTPS.Port, c.APIServer.HTTPS.Interface = 0, 0, "127.0.0.1"
	c.Diagnostics.ServerPort = 0
	c.DPServer.Port, c.DPServer.Interface, c.DPServer.Auth.AcceptLegacyTokens = 0, "127.0.0.1", legacy
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	zone, err := zonecp.New(t.Context(), &c, w.zoneLog.logger())
	if err != nil {
		t.Fatal(err)
	}
	w.zone = zone.Base
	t.Cleanup(w.stop)
	w.run(zone.Base, zone.Run)
	return w
}

// legacyProxy is the dataplane of dp-1.
const legacyProxy = `{"type":"Dataplane","mesh":"default","name":"dp-1","networking":{"address":"127.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"web"}}]}}`

// bootstrap asks for the bootstrap of dp-1 with a token.
func (w *world) bootstrap(token string) reply {
	w.t.Helper()
	body, err := json.Marshal(map[string]string{"mesh": "default", "name": "dp-1", "dataplaneToken": token, "dataplaneResource": legacyProxy})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do(call{base: "https://" + w.zone.Addrs()["dpServer"], method: "POST", path: "/bootstrap", body: string(body), header: []string{"Content-Type", "application/json"}})
}

// refuses holds the port for proxies to refusing a token, at both doors.
func (w *world) refuses(what, token string) {
	w.t.Helper()
	if r := w.bootstrap(token); r.status != http.StatusForbidden || !strings.Contains(r.body, "authentication failed: ") {
		w.t.Errorf("%s: bootstrap: %d %s", what, r.status, r.body)
	}
	err := w.invoke(w.t.Context(), w.dial(w.zone.Addrs()["dpServer"], false, nil), "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
		fmt.Sprintf(`{"node":{"id":"default.dp-1","metadata":{"dataplane.resource":%q}},"typeUrl":%q}`, legacyProxy, resourcev3.ClusterType), token)
	if status.Code(err) != codes.Unauthenticated {
		w.t.Errorf("%s: stream: %v", what, err)
	}
}

// TestLegacyTokens: a standalone zone control plane to which the signing key of a published one was brought takes the
// tokens of its proxies where that is asked for, says so, and ends their streams with that key or with a revocation.
func TestLegacyTokens(t *testing.T) {
	t.Parallel()
	const secret = "/meshes/default/secrets/dataplane-token-signing-key-default"
	brought := func() ([]byte, string) {
		der, err := auth.NewRSAKey()
		if err != nil {
			t.Fatal(err)
		}
		return der, fmt.Sprintf(`{"data":%q}`, base64.StdEncoding.EncodeToString(der))
	}
	der, body := brought()
	claims := jwt.MapClaims{"Name": "dp-1", "Mesh": "default", "Tags": map[string]any{}, "Type": ""}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(der)
	if err != nil {
		t.Fatal(err)
	}

	off := newAlone(t, false)
	off.mustZone("PUT", secret, body)
	off.refuses("not asked for", token)
	if strings.Contains(off.zoneLog.String(), "acceptLegacyTokens") {
		t.Error("it warns of what is off")
	}

	w := newAlone(t, true)
	w.refuses("another key", token)
	w.mustZone("PUT", secret, body)
	if r := w.bootstrap(token); r.status != http.StatusOK {
		t.Fatalf("bootstrap: %d %s", r.status, r.body)
	}
	open := w.proxy("dp-1", token)
	ours := w.mustZone("POST", "/tokens", `{"mesh":"default","name":"dp-2"}`)
	kept := w.proxy("dp-2", ours)
	for _, said := range []string{"acceptLegacyTokens", `"proxy":"Dataplane default/dp-1","secret":"default/dataplane-token-signing-key-default","id":"` + auth.TokenFingerprint(token) + `"`} {
		if !strings.Contains(w.zoneLog.String(), said) {
			t.Errorf("the log does not say %s", said)
		}
	}
	if strings.Contains(w.zoneLog.String(), token) {
		t.Error("the log has the token")
	}

	w.mustZone("PUT", "/revocations/"+auth.TokenFingerprint(token), `{}`)
	ends(t, "revoked", time.Now(), open)
	w.refuses("revoked", token)
	w.mustZone("DELETE", "/revocations/"+auth.TokenFingerprint(token), "")
	open = w.proxy("dp-1", token)
	select {
	case err := <-kept:
		t.Errorf("what rests on another token ended: %v", err)
	default:
	}

	_, next := brought()
	w.mustZone("PUT", secret, next)
	ends(t, "Secret replaced", time.Now(), open)
	ends(t, "Secret replaced, a token of ours", time.Now(), kept)
	w.refuses("Secret replaced", token)
	w.mustZone("PUT", secret, body)
	open = w.proxy("dp-1", token)
	w.mustZone("DELETE", secret, "")
	ends(t, "Secret deleted", time.Now(), open)
	w.refuses("Secret deleted", token)

	// Bytes that are no key sign no token of ours, and are followed all the same.
	opaque := []byte(strings.Repeat("0123456789abcdef", 4))
	if token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(opaque); err != nil {
		t.Fatal(err)
	}
	w.mustZone("PUT", secret, fmt.Sprintf(`{"data":%q}`, base64.StdEncoding.EncodeToString(opaque)))
	open = w.proxy("dp-1", token)
	w.mustZone("DELETE", secret, "")
	ends(t, "Secret of other bytes deleted", time.Now(), open)
}
