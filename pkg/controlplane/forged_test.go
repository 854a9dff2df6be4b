package controlplane_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/meridian-mesh/meridian/pkg/config"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// TestForged: what a client says of itself makes nobody of it, in whatever header it says so.
func TestForged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	admin := w.must("POST", "/tokens/user", `{"name":"ann","role":"admin"}`)
	plain, secure := "http://"+w.global.Addrs()["http"], "https://"+w.global.Addrs()["https"]
	for name, tt := range map[string]struct {
		call
		want int
	}{
		"loopback":                        {call{base: plain}, 200},
		"forwarded-for":                   {call{base: plain, remote: true, header: []string{"X-Forwarded-For", "127.0.0.1"}}, 403},
		"forwarded-for over TLS":          {call{base: secure, remote: true, header: []string{"X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1"}}, 403},
		"forwarded":                       {call{base: plain, remote: true, header: []string{"Forwarded", "for=127.0.0.1;host=localhost;proto=https"}}, 403},
		"forwarded certificate":           {call{base: secure, remote: true, header: []string{"X-Forwarded-Client-Cert", "Subject=\"CN=ops\""}}, 403},
		"grpc metadata with a token":      {call{base: secure, remote: true, header: []string{"Grpc-Metadata-Authorization", "Bearer " + admin}}, 403},
		"grpc metadata with an address":   {call{base: secure, remote: true, header: []string{"Grpc-Metadata-X-Forwarded-For", "127.0.0.1", "Grpc-Metadata-Host", "localhost"}}, 403},
		"host of this machine, from afar": {call{base: plain, remote: true, host: "localhost:5681"}, 403},
		"foreign host":                    {call{base: plain, host: "cp.example:5681"}, 403},
		"rebound name":                    {call{base: plain, host: "localhost.evil.example"}, 403},
		"foreign origin":                  {call{base: plain, header: []string{"Origin", "http://evil.example"}}, 403},
		"opaque origin":                   {call{base: plain, header: []string{"Origin", "null"}}, 403},
		"two origins":                     {call{base: plain, header: []string{"Origin", "http://evil.example", "Origin", plain}}, 403},
		"own origin":                      {call{base: plain, header: []string{"Origin", plain}}, 200},
		"foreign host with a token":       {call{base: plain, host: "cp.example", header: []string{"Authorization", "Bearer " + admin}}, 200},
		"token":                           {call{base: secure, remote: true, header: []string{"Authorization", "Bearer " + admin}}, 200},
		"bare token":                      {call{base: secure, remote: true, header: []string{"Authorization", admin}}, 401},
		"two tokens":                      {call{base: secure, remote: true, header: []string{"Authorization", "Bearer x", "Authorization", "Bearer " + admin}}, 401},
		"password":                        {call{base: plain, header: []string{"Authorization", "Basic YTpi"}}, 401},
		"token in plain":                  {call{base: plain, remote: true, header: []string{"Authorization", "Bearer " + admin}}, 401},
		"token in the query":              {call{base: secure, remote: true, path: "?access_token=" + admin}, 403},
		"method override":                 {call{base: secure, remote: true, method: "POST", header: []string{"X-Http-Method-Override", "GET"}}, 405},
	} {
		c := tt.call
		c.path = "/global-secrets" + c.path
		if c.method == "" {
			c.method = "GET"
		}
		if r := w.do(c); r.status != tt.want {
			t.Errorf("%s: %d %s, want %d", name, r.status, r.body, tt.want)
		}
	}

	// A time-out of the client's does not reach the handler: the wait goes on for as long as the query says.
	began := time.Now()
	r := w.do(call{base: plain, method: "GET", path: "/positions?revision=" + w.pending() + "&wait=300ms", header: []string{"Grpc-Timeout", "1n"}})
	if r.status != http.StatusOK || time.Since(began) < 300*time.Millisecond {
		t.Errorf("Grpc-Timeout: %d %s after %s", r.status, r.body, time.Since(began))
	}

	// Over gRPC the same holds: what is forged in metadata counts for nothing.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "127.0.0.1", "grpcgateway-authorization", "Bearer "+admin)
	conn := w.dial(w.global.Addrs()["https"], true, nil)
	if _, err := apiv1.NewResourceServiceClient(conn).List(ctx, &apiv1.ListRequest{Plural: "global-secrets"}); grpcCode(err) != http.StatusForbidden {
		t.Errorf("forged metadata over gRPC: %v", err)
	}
}

// pending is a revision that is not live: a zone is online that takes in nothing.
func (w *world) pending() string {
	w.t.Helper()
	w.session("zone-7", w.must("POST", "/tokens/zone", `{"zone":"zone-7"}`))
	return w.global.Store.Config().View().Revision().String()
}

// TestLocalhostIsNobody: with allowFromLocalhost off a caller on this machine has to show a credential like any other.
func TestLocalhostIsNobody(t *testing.T) {
	t.Parallel()
	var base string
	w := newWorld(t, func(g *config.Global, z *config.Zone) {
		z.APIServer.Auth.AllowFromLocalhost = false
	})
	admin := w.must("POST", "/tokens/user", `{"name":"ann","role":"admin"}`)
	w.synced()
	base = w.zone.Addrs()["http"]
	body := `{"networking":{"address":"127.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"web"}}]}}`
	for _, tt := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", "/meshes", "", 200},
		{"PUT", "/meshes/default/dataplanes/dp", "", 403},
		{"POST", "/tokens", "", 403},
		{"PUT", "/meshes/default/dataplanes/dp", admin, 201},
		{"POST", "/tokens", admin, 200},
	} {
		c := call{base: "http://" + base, method: tt.method, path: tt.path, body: body}
		if tt.path == "/tokens" {
			c.body = `{"mesh":"default"}`
		}
		if tt.token != "" {
			c.header = []string{"Authorization", "Bearer " + tt.token}
		}
		if r := w.do(c); r.status != tt.want {
			t.Errorf("%s %s: %d %s, want %d", tt.method, tt.path, r.status, r.body, tt.want)
		}
	}
}

// TestAudit: each write leaves a line with who made it and in which request, and the caller is told the request's id.
func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	token := w.must("POST", "/tokens/user", `{"name":"ann","role":"writer"}`)
	jti, _ := idsOf(t, token)
	plain, secure := "http://"+w.global.Addrs()["http"], "https://"+w.global.Addrs()["https"]
	calls := map[string]call{
		"user ann (token " + jti + ")": {base: secure, remote: true, header: []string{"Authorization", "Bearer " + token, "X-Request-Id", "r-1"}},
		"certificate CN=ops":           {base: secure, remote: true, cert: &w.cert},
		"loopback 127.0.0.1":           {base: plain, header: []string{"X-Request-Id", strings.Repeat("x", 200)}},
	}
	ids := map[string]string{}
	for who, c := range calls {
		c.method, c.path, c.body = "PUT", "/zones/zone-2", `{}`
		r := w.do(c)
		if r.status/100 != 2 {
			t.Fatalf("%s: %d %s", who, r.status, r.body)
		}
		ids[who] = r.header.Get("X-Request-Id")
	}
	if ids["user ann (token "+jti+")"] != "r-1" {
		t.Errorf("the client's request id is not kept: %v", ids)
	}
	for who, id := range ids {
		if id == "" || len(id) > 128 {
			t.Errorf("%s: request id %q", who, id)
		}
	}
	found := map[string]string{}
	issued := false
	for line := range strings.Lines(w.globalLog.String()) {
		var l struct{ Msg, Who, Request, Jti string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.Msg == "audit" && ids[l.Who] == l.Request {
			found[l.Who] = l.Request
		}
		issued = issued || l.Msg == "token issued" && l.Who == "loopback 127.0.0.1" && l.Jti == jti && l.Request != ""
	}
	if !issued {
		t.Error("no line of who had the token made")
	}
	for who, id := range ids {
		if found[who] != id {
			t.Errorf("no audit line of %s in request %s", who, id)
		}
	}
}
