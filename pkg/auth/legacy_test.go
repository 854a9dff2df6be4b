package auth

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// published are the claims of a token as the published release makes it.
func published() jwt.MapClaims {
	return jwt.MapClaims{"Name": "web-1", "Mesh": "default", "Tags": map[string][]string{}, "Type": ""}
}

func claimsWith(name string, value any) jwt.MapClaims {
	c := published()
	c[name] = value
	return c
}

// secretOf is a Secret whose bytes may be replaced; nil: it is not there.
func secretOf(data *[]byte) func(string) LegacySecret {
	return func(mesh string) LegacySecret {
		return LegacySecret{Name: mesh + "/key", Bytes: func() ([]byte, bool) { return *data, *data != nil }}
	}
}

// legacyAuthenticator takes tokens of k and, where data is not nil, legacy ones made from it, in every mesh.
func legacyAuthenticator(k *SigningKey, data *[]byte) *ProxyAuthenticator {
	a := NewProxyAuthenticator(ProxyByToken, func(string) Keys { return keysOf(k) })
	a.Now = func() time.Time { return epoch }
	if data != nil {
		a.Legacy = secretOf(data)
	}
	return a
}

// TestLegacyTokens: only HS256 from the Secret's very bytes passes, and only for the proxy that it names; nothing
// passes where it is not asked for.
func TestLegacyTokens(t *testing.T) {
	der, other := must(NewRSAKey()), meshKey(t)
	k := must(ParseSigningKey(der))
	opaque := bytes.Repeat([]byte{7}, minLegacySecret)
	public := k.PublicDER()
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	made := craft(t, jwt.SigningMethodHS256, nil, der, published())
	// What the 0.4 release has written: no Tags, no Type.
	old := craft(t, jwt.SigningMethodHS256, nil, der, jwt.MapClaims{"Name": "web-1", "Mesh": "default"})
	for name, tt := range map[string]struct {
		token  string
		secret []byte
		want   error // nil: it is taken
	}{
		"of 1.1":              {made, der, nil},
		"of 0.4":              {old, der, nil},
		"good for all":        {craft(t, jwt.SigningMethodHS256, nil, der, jwt.MapClaims{}), der, nil},
		"from other bytes":    {craft(t, jwt.SigningMethodHS256, nil, opaque, published()), opaque, nil},
		"with an id":          {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("jti", "a-1")), der, nil},
		"with an end":         {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("exp", epoch.Add(time.Hour).Unix())), der, nil},
		"ended":               {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("exp", epoch.Unix())), der, ErrExpired},
		"not yet":             {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("nbf", epoch.Add(time.Hour).Unix())), der, ErrNotYetValid},
		"jti of no name":      {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("jti", "a/b")), der, ErrMalformed},
		"no Secret":           {made, nil, ErrUnknownKey},
		"another Secret":      {made, opaque, ErrSignature},
		"the key as PEM":      {made, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der}), ErrSignature},
		"empty Secret":        {craft(t, jwt.SigningMethodHS256, nil, []byte{}, published()), []byte{}, ErrUnknownKey},
		"short Secret":        {craft(t, jwt.SigningMethodHS256, nil, opaque[1:], published()), opaque[1:], ErrUnknownKey},
		"public half":         {craft(t, jwt.SigningMethodHS256, k.ID, public, published()), der, ErrSignature},
		"public half, PEM":    {craft(t, jwt.SigningMethodHS256, k.ID, publicPEM, published()), der, ErrSignature},
		"a public Secret":     {craft(t, jwt.SigningMethodHS256, k.ID, public, published()), public, ErrUnknownKey},
		"a public Secret PEM": {craft(t, jwt.SigningMethodHS256, k.ID, publicPEM, published()), publicPEM, ErrUnknownKey},
		"HS384":               {craft(t, jwt.SigningMethodHS384, nil, der, published()), der, ErrSignature},
		"HS512":               {craft(t, jwt.SigningMethodHS512, nil, der, published()), der, ErrSignature},
		"alg none":            {craft(t, jwt.SigningMethodNone, nil, jwt.UnsafeAllowNoneSignatureType, published()), der, ErrSignature},
		"RS256 by another":    {craft(t, jwt.SigningMethodRS256, k.ID, other.Signer, claimsWith("jti", "a-1")), der, ErrSignature},
		"RS256 without an id": {craft(t, jwt.SigningMethodRS256, k.ID, k.Signer, published()), der, ErrMalformed},
		"another proxy's":     {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("Name", "web-2")), der, errAny},
		"another mesh's":      {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("Mesh", "other")), der, errAny},
		"an ingress's":        {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("Type", "ingress")), der, errAny},
		"another service's":   {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("Tags", map[string][]string{"kuma.io/service": {"db"}})), der, errAny},
		"Tags of no tags":     {craft(t, jwt.SigningMethodHS256, nil, der, claimsWith("Tags", 1)), der, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			tags := map[string][]string{"kuma.io/service": {"web"}}
			a := legacyAuthenticator(k, &tt.secret)
			for range 2 { // the second time from memory
				c, err := a.AuthenticateProxy(t.Context(), tt.token, "default", "web-1", tags, false)
				switch {
				case tt.want == nil && (err != nil || c.Legacy != "default/key" || c.Endless()):
					t.Errorf("%+v, %v", c, err)
				case tt.want != nil && (err == nil || status.Code(err) != codes.Unauthenticated || !errors.Is(tt.want, errAny) && !errors.Is(err, tt.want)):
					t.Errorf("got %v, want %v", err, tt.want)
				}
			}
			if _, err := legacyAuthenticator(k, nil).AuthenticateProxy(t.Context(), tt.token, "default", "web-1", tags, false); err == nil {
				t.Error("taken where legacy tokens are not")
			}
		})
	}
	for name, verify := range map[string]func() error{
		"user's": func() error { _, err := VerifyUserToken(made, keysOf(k), epoch); return err },
		"zone's": func() error { _, err := VerifyZoneToken(made, keysOf(k), epoch); return err },
	} {
		if err := verify(); !errors.Is(err, ErrSignature) {
			t.Errorf("as a %s: %v", name, err)
		}
	}
}

// errAny stands for a refusal of any kind.
var errAny = errors.New("any")

// TestLegacyCredential: what a legacy token goes by, and that tokens with a key go on beside it.
func TestLegacyCredential(t *testing.T) {
	der := must(NewRSAKey())
	k := must(ParseSigningKey(der))
	opaque := bytes.Repeat([]byte{7}, minLegacySecret)
	until := epoch.Add(time.Hour)
	plain := craft(t, jwt.SigningMethodHS256, nil, der, published())
	type ids struct{ ID, Key, Legacy string }
	for name, tt := range map[string]struct {
		token  string
		secret []byte
		want   ids
		end    time.Time
	}{
		"endless":          {plain, der, ids{TokenFingerprint(plain), k.ID, "default/key"}, time.Time{}},
		"with all":         {craft(t, jwt.SigningMethodHS256, "x", der, jwt.MapClaims{"jti": "a-1", "exp": until.Unix()}), der, ids{"a-1", k.ID, "default/key"}, until},
		"from other bytes": {craft(t, jwt.SigningMethodHS256, nil, opaque, jwt.MapClaims{"jti": "a-1"}), opaque, ids{"a-1", "", "default/key"}, time.Time{}},
		"of ours":          {must(IssueDataplaneToken(k, DataplaneClaims{}, time.Hour, epoch)), der, ids{"", k.ID, ""}, until},
	} {
		c, err := legacyAuthenticator(k, &tt.secret).AuthenticateProxy(t.Context(), tt.token, "default", "web-1", nil, false)
		got := ids{c.ID, c.Key, c.Legacy}
		if name == "of ours" {
			got.ID = ""
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil || !c.Expires.Equal(tt.end) {
			t.Errorf("%s: ends %s, %v\n%s", name, c.Expires, err, diff)
		}
	}
}

// TestLegacyTokenEnds: with its Secret's bytes, with a revocation of itself, or of the key that they are.
func TestLegacyTokenEnds(t *testing.T) {
	der := must(NewRSAKey())
	k := must(ParseSigningKey(der))
	token := craft(t, jwt.SigningMethodHS256, nil, der, published())
	again := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der})
	for name, tt := range map[string]struct {
		change func(data *[]byte, revoked map[string]bool)
		told   string
		want   error
	}{
		"Secret replaced":          {func(d *[]byte, _ map[string]bool) { *d = must(NewRSAKey()) }, "default/key", ErrUnknownKey},
		"Secret deleted":           {func(d *[]byte, _ map[string]bool) { *d = nil }, "default/key", ErrUnknownKey},
		"same key in other bytes":  {func(d *[]byte, _ map[string]bool) { *d = again }, "default/key", ErrUnknownKey},
		"token revoked":            {func(_ *[]byte, r map[string]bool) { r[TokenFingerprint(token)] = true }, TokenFingerprint(token), ErrRevoked},
		"key revoked":              {func(_ *[]byte, r map[string]bool) { r[k.ID] = true }, k.ID, ErrRevoked},
		"Secret written as it was": {func(d *[]byte, _ map[string]bool) { *d = bytes.Clone(*d) }, "default/key", nil},
		"another one changed":      {func(*[]byte, map[string]bool) {}, "other/key", nil},
	} {
		data, revoked := der, map[string]bool{}
		a := legacyAuthenticator(k, &data)
		a.Revoked = func(id string) bool { return revoked[id] }
		c, err := a.AuthenticateProxy(t.Context(), token, "default", "web-1", nil, false)
		if err != nil {
			t.Fatal(err)
		}
		l := NewLive(a.Revoked)
		var e ended
		release := e.hold(l, name, c)
		tt.change(&data, revoked)
		l.Changed(tt.told)
		if got := e.of(name); !errors.Is(got, tt.want) || (got == nil) != (tt.want == nil) {
			t.Errorf("%s: ended with %v, want %v", name, got, tt.want)
		}
		release()
		if len(l.byID) > 0 {
			t.Errorf("%s: remembered: %v", name, l.byID)
		}
		l.Close()
		// And no other stream begins.
		if _, err := a.AuthenticateProxy(t.Context(), token, "default", "web-1", nil, false); (err == nil) != (tt.want == nil) {
			t.Errorf("%s: then %v", name, err)
		}
	}
}

// TestLegacyTokenOfOneMesh: what is remembered of a token in one mesh is no pass into another, nor is its
// credential there that of the first.
func TestLegacyTokenOfOneMesh(t *testing.T) {
	der := must(NewRSAKey())
	token := craft(t, jwt.SigningMethodHS256, nil, der, jwt.MapClaims{"Name": "web-1"})
	a := legacyAuthenticator(meshKey(t), &der)
	other := must(NewRSAKey())
	a.Legacy = func(mesh string) LegacySecret {
		if mesh == "other" {
			return secretOf(&other)(mesh)
		}
		return secretOf(&der)(mesh)
	}
	for _, mesh := range []string{"default", "same", "other"} {
		c, err := a.AuthenticateProxy(t.Context(), token, mesh, "web-1", nil, false)
		if mesh == "other" && !errors.Is(err, ErrSignature) || mesh != "other" && (err != nil || c.Legacy != mesh+"/key") {
			t.Errorf("%s: %+v, %v", mesh, c, err)
		}
	}
}

// FuzzLegacyToken: whatever is shown, without the Secret's bytes nothing passes.
func FuzzLegacyToken(f *testing.F) {
	k, der := meshKey(f), must(NewRSAKey())
	f.Add(craft(f, jwt.SigningMethodHS256, nil, must(NewRSAKey()), published()))
	f.Add(craft(f, jwt.SigningMethodHS256, k.ID, k.PublicDER(), published()))
	f.Add(craft(f, jwt.SigningMethodNone, nil, jwt.UnsafeAllowNoneSignatureType, published()))
	f.Add("eyJhbGciOiJIUzI1NiJ9.e30.")
	a := legacyAuthenticator(k, &der)
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := a.AuthenticateProxy(context.Background(), token, "default", "web-1", nil, false); err == nil {
			t.Errorf("%q passes as %+v", token, c)
		}
	})
}
