package controlplane_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// idsOf reads a token's jti and kid.
func idsOf(t *testing.T, token string) (jti, kid string) {
	t.Helper()
	var claims struct{ Jti, Kid string }
	for i, part := range strings.Split(token, ".") {
		if i == 2 {
			break
		}
		data, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &claims); err != nil {
			t.Fatal(err)
		}
	}
	return claims.Jti, claims.Kid
}

// within is how soon what rests on a credential ends after it was taken back.
const within = time.Second

// ends waits for the end of something open and holds it to the time and the reason.
func ends(t *testing.T, what string, since time.Time, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		took := time.Since(since)
		if status.Code(err) != codes.Unauthenticated || took > within {
			t.Errorf("%s: ended after %s with %v", what, took, err)
		}
		t.Logf("%s ended after %s: %v", what, took, err)
	case <-time.After(10 * time.Second):
		t.Errorf("%s goes on", what)
	}
}

// proxy opens a stream of a proxy with a token and waits until it is served.
func (w *world) proxy(name, token string) <-chan error {
	w.t.Helper()
	conn := w.dial(w.zone.Addrs()["dpServer"], false, nil)
	ctx := metadata.AppendToOutgoingContext(w.t.Context(), "authorization", token)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	dataplane := fmt.Sprintf(`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":"127.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"web"}}]}}`, name)
	err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: xdstest.Node("default", name, dataplane), TypeUrl: resourcev3.ClusterType})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		w.t.Fatalf("proxy %s: %v", name, err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

// session opens a zone's session with a token and waits for the answer to its Hello.
func (w *world) session(zone, token string) <-chan error {
	w.t.Helper()
	conn := w.dial(w.global.Addrs()["kds"], false, nil)
	ctx := metadata.AppendToOutgoingContext(w.t.Context(), "authorization", "Bearer "+token)
	stream, err := kdsv1.NewSyncServiceClient(conn).Sync(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	err = stream.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: &kdsv1.Hello{Zone: zone, Store: "store-" + zone}}})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		w.t.Fatalf("zone %s: %v", zone, err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
			// The global speaks at least once a second, and so does the zone.
			_ = stream.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}})
		}
	}()
	return ended
}

// waits starts a request at the zone, as a user, that waits for a revision which never comes.
func (w *world) waits(token string) <-chan error {
	w.t.Helper()
	ended := make(chan error, 1)
	go func() {
		r, err := w.send(w.t.Context(), call{
			base: "https://" + w.zone.Addrs()["https"], method: "GET", path: "/positions?revision=999999&wait=60s", remote: true,
			header: []string{"Authorization", "Bearer " + token},
		})
		if err == nil && r.status == http.StatusUnauthorized {
			err = status.Error(codes.Unauthenticated, strings.TrimSpace(r.body))
		} else if err == nil {
			err = fmt.Errorf("%d %s", r.status, r.body)
		}
		ended <- err
	}()
	return ended
}

// TestRevocation: a token that is taken back, by its id or by its key, and one whose key is gone, ends what rests on it
// within a second, in the zone too, and opens nothing any more. What rests on others goes on.
func TestRevocation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	issue := func(path, body string) (token, jti, kid string) {
		token = w.must("POST", path, body)
		jti, kid = idsOf(t, token)
		return token, jti, kid
	}
	proxy := func(name string) (string, string, string) {
		token := w.mustZone("POST", "/tokens", fmt.Sprintf(`{"mesh":"default","name":%q}`, name))
		jti, kid := idsOf(t, token)
		return token, jti, kid
	}
	var kept []<-chan error

	// By the token's id.
	zoneToken, zoneID, zoneKey := issue("/tokens/zone", `{"zone":"zone-7"}`)
	proxyToken, proxyID, proxyKey := proxy("dp-1")
	userToken, userID, userKey := issue("/tokens/user", `{"name":"ann","role":"admin"}`)
	otherZone, _, _ := issue("/tokens/zone", `{"zone":"zone-8"}`)
	otherProxy, _, _ := proxy("dp-2")
	w.synced() // the zone knows the users' key
	kept = append(kept, w.session("zone-8", otherZone), w.proxy("dp-2", otherProxy))
	for name, it := range map[string]struct {
		ended <-chan error
		id    string
	}{
		"zone": {w.session("zone-7", zoneToken), zoneID}, "proxy": {w.proxy("dp-1", proxyToken), proxyID}, "user's wait": {w.waits(userToken), userID},
	} {
		w.must("PUT", "/revocations/"+it.id, `{"note":"lost"}`)
		ends(t, name+" by jti", time.Now(), it.ended)
	}
	for _, ended := range kept {
		select {
		case err := <-ended:
			t.Errorf("what rests on another token ended: %v", err)
		default:
		}
	}
	if r := w.do(call{base: "https://" + w.global.Addrs()["https"], method: "GET", path: "/meshes", header: []string{"Authorization", "Bearer " + userToken}}); r.status != http.StatusUnauthorized ||
		!strings.Contains(r.body, "revoked") || r.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("a revoked token reads: %d %s", r.status, r.body)
	}
	if err := w.invoke(t.Context(), w.dial(w.zone.Addrs()["dpServer"], false, nil), "envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
		`{"node":{"id":"default.dp-2"},"typeUrl":"`+resourcev3.ClusterType+`"}`, proxyToken); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a revoked token connects: %v", err)
	}

	// The next keys sign; tokens of the old ones go on.
	var next struct{ Name, Kid string }
	made := w.must("POST", "/signing-keys", `{"use":"zone"}`)
	if err := json.Unmarshal([]byte(made), &next); err != nil || next.Name != "zone-token-signing-key-2" || next.Kid == zoneKey {
		t.Fatalf("the next key: %s, %v", made, err)
	}
	newZone, _, newZoneKey := issue("/tokens/zone", `{"zone":"zone-9"}`)
	if newZoneKey != next.Kid {
		t.Errorf("signed by %s, not by the newest, %s", newZoneKey, next.Kid)
	}
	newEnded := w.session("zone-9", newZone)
	w.must("POST", "/signing-keys", `{"use":"user"}`)
	newUser, _, newUserKey := issue("/tokens/user", `{"name":"bob","role":"admin"}`)
	if newUserKey == userKey {
		t.Error("the user's token is signed by the old key")
	}

	// By the key: the old zones' key is revoked; the new users' key is deleted; the proxies' key, which is the zone's own,
	// is revoked from above. The zone itself has come by the old key, and comes back by a token of the new one.
	w.join()
	sessions := w.sessions()
	w.must("PUT", "/revocations/"+zoneKey, `{}`)
	ends(t, "zone by kid", time.Now(), kept[0])
	w.rejoined(sessions)
	w.synced()
	waiting := w.waits(newUser)
	w.must("PUT", "/revocations/"+proxyKey, `{}`)
	ends(t, "proxy by kid", time.Now(), kept[1])
	w.must("DELETE", "/global-secrets/user-token-signing-key-2", "")
	ends(t, "user's wait by a deleted key", time.Now(), waiting)
	w.must("DELETE", "/global-secrets/zone-token-signing-key-2", "")
	ends(t, "zone by a deleted key", time.Now(), newEnded)

	// Neither signs again: the old zone key is revoked, the new one gone.
	if r := w.do(call{base: "http://" + w.global.Addrs()["http"], method: "POST", path: "/tokens/zone", body: `{"zone":"z"}`}); r.status != http.StatusNotFound || !strings.Contains(r.body, "can sign") {
		t.Errorf("signed by a revoked key: %d %s", r.status, r.body)
	}
}

// TestExpiry: what rests on a token ends with it.
func TestExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	zone := w.must("POST", "/tokens/zone", `{"zone":"zone-7","validFor":"6s"}`)
	user := w.must("POST", "/tokens/user", `{"name":"ann","role":"writer","validFor":"6s"}`)
	proxy := w.mustZone("POST", "/tokens", `{"mesh":"default","name":"dp-1","validFor":"6s"}`)
	at := time.Now().Truncate(time.Second).Add(6 * time.Second) // exp is in whole seconds
	w.synced()
	open := map[string]<-chan error{"zone": w.session("zone-7", zone), "user": w.waits(user), "proxy": w.proxy("dp-1", proxy)}
	<-time.After(time.Until(at))
	for name, ended := range open {
		ends(t, name, time.Now(), ended)
	}
}

// TestRevokedCertificates: a client certificate is taken back by its fingerprint.
func TestRevokedCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.must("PUT", "/revocations/"+fingerprint(t, w.cert), `{}`)
	w.synced()
	for _, cp := range []string{w.global.Addrs()["https"], w.zone.Addrs()["https"]} {
		if r := w.do(call{base: "https://" + cp, method: "GET", path: "/meshes", cert: &w.cert}); r.status != http.StatusUnauthorized || !strings.Contains(r.body, "revoked") {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

// TestOldRevocationsGo: a revocation whose time is long over goes with the next one.
func TestOldRevocationsGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.must("PUT", "/revocations/old", fmt.Sprintf(`{"expires":%q}`, time.Now().Add(-25*time.Hour).UTC().Format(time.RFC3339)))
	w.must("PUT", "/revocations/over", fmt.Sprintf(`{"expires":%q}`, time.Now().Add(-23*time.Hour).UTC().Format(time.RFC3339)))
	w.must("PUT", "/revocations/for-ever", `{}`)
	var l struct{ Items []struct{ Name string } }
	if err := json.Unmarshal([]byte(w.must("GET", "/revocations", "")), &l); err != nil || fmt.Sprint(l.Items) != "[{for-ever} {over}]" {
		t.Errorf("%v, %v", l.Items, err)
	}
}
