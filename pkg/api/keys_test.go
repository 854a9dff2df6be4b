package api

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

func TestKeyringNames(t *testing.T) {
	r := dataplaneKeys("web")
	for name, want := range map[string]int{
		"dataplane-token-signing-key-web": 1, "dataplane-token-signing-key-web-2": 2, "dataplane-token-signing-key-web-31": 31,
		"dataplane-token-signing-key-web-1": 0, "dataplane-token-signing-key-web-0": 0, "dataplane-token-signing-key-web-02": 0,
		"dataplane-token-signing-key-web--2": 0, "dataplane-token-signing-key-web2": 0, "dataplane-token-signing-key-web-x": 0,
		"dataplane-token-signing-key": 0, "zone-token-signing-key": 0, "dataplane-token-signing-key-web-99999999999999999999": 0,
	} {
		if got := r.number(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
		if want > 0 && r.secret(want).Name != name {
			t.Errorf("%d: %s", want, r.secret(want).Name)
		}
	}
	// The mesh "web-2" has keys of its own, though its first is called as the second of "web".
	if r, ok := keyringOf(resource.Key{Kind: resource.KindSecret, Scope: "web-2", Name: "dataplane-token-signing-key-web-2"}); !ok || r.mesh != "web-2" {
		t.Errorf("%v, %v", r, ok)
	}
	if _, ok := keyringOf(resource.Key{Kind: resource.KindSecret, Scope: "web", Name: "user-token-signing-key"}); ok {
		t.Error("a secret of a mesh signs users' tokens")
	}
}

// publicKids lists the kids of the public halves that belong to no mesh.
func publicKids(v store.View) map[string]bool {
	kids := map[string]bool{}
	for o := range v.Scan(store.OfKind(resource.KindGlobalPublicKey)) {
		kids[o.Key.Name] = true
	}
	return kids
}

// A public half is there for as long as a secret holds its key, be it two that do, and is made where it is missing.
func TestPublicHalvesFollowTheirSecrets(t *testing.T) {
	st := memory.New(memory.Options{})
	defer func() { _ = st.Close() }()
	s, err := New(Options{Store: st, Table: resource.NewTable(), Mode: Global, Logger: slog.New(slog.DiscardHandler), Policy: auth.AdminPolicy{AllowFromLocalhost: true}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := auth.WithCaller(t.Context(), auth.Caller{User: &auth.UserToken{Name: "ann", Role: auth.RoleAdmin}})
	der, err := auth.NewES256Key()
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.ParseSigningKey(der)
	if err != nil {
		t.Fatal(err)
	}
	ring := userKeys()
	put := func(name string, data []byte) {
		t.Helper()
		body := fmt.Sprintf(`{"data":%q}`, base64.StdEncoding.EncodeToString(data))
		if _, err := s.Put(ctx, &apiv1.PutRequest{Plural: "global-secrets", Name: name, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if _, err := s.Delete(ctx, &apiv1.DeleteRequest{Plural: "global-secrets", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	there := func(want bool) {
		t.Helper()
		if got := publicKids(st.Config().View())[key.ID]; got != want {
			t.Errorf("the public half is there: %v", got)
		}
	}
	put(ring.secret(1).Name, der)
	there(true)
	put(ring.secret(2).Name, der)
	remove(ring.secret(1).Name)
	there(true)
	put(ring.secret(2).Name, []byte("no key"))
	there(false)
	put("user-token-signing-key-x", der) // one of no ring
	there(false)
	put(ring.secret(3).Name, der)
	there(true)

	if _, err := st.Config().Apply(t.Context(), store.Batch{Deletes: []resource.Key{ring.public(key.ID)}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.EnsurePublicKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		there(true)
	}
	signs, err := s.signingKey(ctx, ring, false)
	if err != nil || signs.ID != key.ID {
		t.Errorf("signs: %v, %v", signs, err)
	}
	remove(ring.secret(3).Name)
	there(false)
}

func TestUserTokenRequests(t *testing.T) {
	st := memory.New(memory.Options{})
	defer func() { _ = st.Close() }()
	for mode, want := range map[Mode]bool{Global: true, Standalone: true, Zone: false} {
		s, err := New(Options{Store: st, Table: resource.NewTable(), Mode: mode, Zone: "z", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx := auth.WithCaller(t.Context(), auth.Caller{User: &auth.UserToken{Name: "ann", Role: auth.RoleAdmin}})
		issue := func(body string) (string, error) {
			r, err := s.IssueUserToken(ctx, &apiv1.IssueUserTokenRequest{Body: []byte(body)})
			return r.GetToken(), err
		}
		token, err := issue(`{"name":"bob","role":"writer"}`)
		if (err == nil) != want {
			t.Errorf("%s: %v", mode, err)
			continue
		}
		if !want {
			continue
		}
		key, err := s.signingKey(ctx, userKeys(), false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := auth.VerifyUserToken(token, auth.KeySet{key.ID: key.Signer.Public()}, time.Now())
		if err != nil || got.Name != "bob" || got.Role != "writer" || time.Until(got.Expires).Round(time.Hour) != defaultUserValidity {
			t.Errorf("%s: %+v, %v", mode, got, err)
		}
		for _, body := range []string{
			`{"role":"writer"}`, `{"name":"bob"}`, `{"name":"bob","role":"root"}`, `{"name":"b b","role":"admin"}`,
			`{"name":"bob","role":"admin","validFor":"1ms"}`, `{"name":"bob","role":"admin","validFor":"87601h"}`, `{"name":"bob","role":"admin","groups":[]}`, `[]`,
		} {
			if token, err := issue(body); err == nil || token != "" {
				t.Errorf("%s: %q", body, token)
			}
		}
	}
}
