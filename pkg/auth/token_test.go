package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func zoneKey(t testing.TB) *SigningKey { return parsed(t, NewES256Key) }
func meshKey(t testing.TB) *SigningKey { return parsed(t, NewRSAKey) }

func parsed(t testing.TB, make func() ([]byte, error)) *SigningKey {
	t.Helper()
	der, err := make()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseSigningKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keysOf(keys ...*SigningKey) KeySet {
	s := KeySet{}
	for _, k := range keys {
		s[k.ID] = k.Signer.Public()
	}
	return s
}

func TestZoneToken(t *testing.T) {
	k := zoneKey(t)
	token, err := IssueZoneToken(k, "zone-1", time.Hour, epoch)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyZoneToken(token, keysOf(zoneKey(t), k), epoch.Add(time.Hour-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got.ID == "" {
		t.Error("no jti")
	}
	want := ZoneToken{Zone: "zone-1", ID: got.ID, KeyID: k.ID, Expires: epoch.Add(time.Hour)}
	if !want.Expires.Equal(got.Expires) {
		t.Errorf("expires %s", got.Expires)
	}
	want.Expires = got.Expires
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zone", "jti", "iat", "exp"} {
		if claims[name] == nil {
			t.Errorf("no claim %s", name)
		}
	}
}

func TestIssueRefuses(t *testing.T) {
	zone, mesh := zoneKey(t), meshKey(t)
	for name, issue := range map[string]func() (string, error){
		"zone: empty":           func() (string, error) { return IssueZoneToken(zone, "", time.Hour, epoch) },
		"zone: upper case":      func() (string, error) { return IssueZoneToken(zone, "Zone", time.Hour, epoch) },
		"zone: dot":             func() (string, error) { return IssueZoneToken(zone, "a.b", time.Hour, epoch) },
		"zone: too long":        func() (string, error) { return IssueZoneToken(zone, strings.Repeat("a", 64), time.Hour, epoch) },
		"zone: global":          func() (string, error) { return IssueZoneToken(zone, "global", time.Hour, epoch) },
		"validFor: zero":        func() (string, error) { return IssueZoneToken(zone, "a", 0, epoch) },
		"validFor: negative":    func() (string, error) { return IssueZoneToken(zone, "a", -time.Hour, epoch) },
		"validFor: too long":    func() (string, error) { return IssueZoneToken(zone, "a", MaxValidity+1, epoch) },
		"sign: not an EC key":   func() (string, error) { return IssueZoneToken(mesh, "a", time.Hour, epoch) },
		"sign: not an RSA key":  func() (string, error) { return IssueDataplaneToken(zone, DataplaneClaims{}, time.Hour, epoch) },
		"type: not one of them": func() (string, error) { return IssueDataplaneToken(mesh, DataplaneClaims{Type: "x"}, time.Hour, epoch) },
		"tags: too many": func() (string, error) {
			return IssueDataplaneToken(mesh, DataplaneClaims{Tags: map[string][]string{"a": {strings.Repeat("x", maxToken)}}}, time.Hour, epoch)
		},
	} {
		field, _, _ := strings.Cut(name, ":")
		if token, err := issue(); err == nil || token != "" || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: got %q, %v", name, token, err)
		}
	}
}

// craft signs any claims with any method, as an attacker would who knows the key's public half.
func craft(t testing.TB, method jwt.SigningMethod, kid any, key any, claims jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, claims)
	if kid != nil {
		tok.Header["kid"] = kid
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerifyRefuses(t *testing.T) {
	k, other := zoneKey(t), zoneKey(t)
	mesh := meshKey(t)
	keys := keysOf(k, mesh)
	public, err := x509.MarshalPKIXPublicKey(k.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := func() jwt.MapClaims {
		return jwt.MapClaims{"zone": "zone-1", "jti": "a-1", "iat": epoch.Unix(), "exp": epoch.Add(time.Hour).Unix()}
	}
	with := func(name string, value any) jwt.MapClaims {
		c := good()
		c[name] = value
		return c
	}
	without := func(name string) jwt.MapClaims {
		c := good()
		delete(c, name)
		return c
	}
	valid := craft(t, jwt.SigningMethodES256, k.ID, k.Signer, good())
	if _, err := VerifyZoneToken(valid, keys, epoch); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	parts := strings.Split(valid, ".")
	tests := map[string]struct {
		token string
		want  error
	}{
		"empty":           {"", ErrMalformed},
		"no token":        {"zone-1", ErrMalformed},
		"too long":        {strings.Repeat("a", maxToken+1), ErrMalformed},
		"two parts":       {parts[0] + "." + parts[1], ErrMalformed},
		"no signature":    {parts[0] + "." + parts[1] + ".", ErrSignature},
		"alg none":        {craft(t, jwt.SigningMethodNone, k.ID, jwt.UnsafeAllowNoneSignatureType, good()), ErrSignature},
		"alg HS256":       {craft(t, jwt.SigningMethodHS256, k.ID, public, good()), ErrSignature},
		"alg RS256":       {craft(t, jwt.SigningMethodRS256, mesh.ID, mesh.Signer, good()), ErrSignature},
		"foreign key":     {craft(t, jwt.SigningMethodES256, other.ID, other.Signer, good()), ErrUnknownKey},
		"no kid":          {craft(t, jwt.SigningMethodES256, nil, k.Signer, good()), ErrUnknownKey},
		"kid of no text":  {craft(t, jwt.SigningMethodES256, 7, k.Signer, good()), ErrUnknownKey},
		"borrowed kid":    {craft(t, jwt.SigningMethodES256, k.ID, other.Signer, good()), ErrSignature},
		"kid of RSA":      {craft(t, jwt.SigningMethodES256, mesh.ID, k.Signer, good()), ErrSignature},
		"expired":         {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("exp", epoch.Unix())), ErrExpired},
		"not yet":         {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("nbf", epoch.Add(2*clockSkew).Unix())), ErrNotYetValid},
		"from tomorrow":   {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("iat", epoch.Add(24*time.Hour).Unix())), ErrNotYetValid},
		"no exp":          {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, without("exp")), ErrMalformed},
		"exp of no date":  {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("exp", "never")), ErrMalformed},
		"no jti":          {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, without("jti")), ErrMalformed},
		"jti of no name":  {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("jti", "a/b")), ErrMalformed},
		"no zone":         {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, without("zone")), ErrMalformed},
		"zone of no text": {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("zone", 1)), ErrMalformed},
		"zone global":     {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("zone", "global")), ErrMalformed},
		"zone with a dot": {craft(t, jwt.SigningMethodES256, k.ID, k.Signer, with("zone", "a.b")), ErrMalformed},
		"dataplane's":     {must(IssueDataplaneToken(mesh, DataplaneClaims{}, time.Hour, epoch)), ErrSignature},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := VerifyZoneToken(tt.token, keys, epoch)
			if !errors.Is(err, tt.want) || got != (ZoneToken{}) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	for name, token := range map[string]string{"zone's": valid, "alg none": tests["alg none"].token} {
		if _, err := VerifyDataplaneToken(token, keys, epoch); !errors.Is(err, ErrSignature) {
			t.Errorf("%s token as a dataplane's: %v", name, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestDataplaneTokenRoundTrip(t *testing.T) {
	k := meshKey(t)
	rapid.Check(t, func(t *rapid.T) {
		c := DataplaneClaims{
			Name: rapid.String().Draw(t, "name"),
			Mesh: rapid.String().Draw(t, "mesh"),
			Type: rapid.SampledFrom([]string{"", TypeDataplane, TypeIngress}).Draw(t, "type"),
			Tags: rapid.MapOfN(rapid.StringN(1, 8, -1), rapid.SliceOfN(rapid.String(), 1, 3), 0, 3).Draw(t, "tags"),
		}
		validFor := time.Duration(rapid.Int64Range(1, int64(MaxValidity/time.Second)).Draw(t, "validFor")) * time.Second
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0)
		token, err := IssueDataplaneToken(k, c, validFor, now)
		if err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rapid.Int64Range(0, int64(2*validFor)).Draw(t, "after"))
		got, err := VerifyDataplaneToken(token, keysOf(k), now.Add(after))
		if after >= validFor {
			if !errors.Is(err, ErrExpired) {
				t.Fatalf("after %s of %s: %v", after, validFor, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != c.Name || got.Mesh != c.Mesh || got.Type != c.Type || len(got.Tags) != len(c.Tags) || got.KeyID != k.ID {
			t.Fatalf("%+v became %+v", c, got)
		}
		if err := got.Allows(c.Name, c.Mesh, c.Tags, c.Type == TypeIngress); err != nil {
			t.Fatalf("does not allow what it is for: %v", err)
		}
	})
}

func TestAnyChangedByteIsRefused(t *testing.T) {
	k := zoneKey(t)
	keys := keysOf(k)
	token := must(IssueZoneToken(k, "zone-1", time.Hour, epoch))
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(token)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[i] ^= rapid.Byte().Filter(func(x byte) bool { return x != 0 }).Draw(t, "xor")
		if got, err := VerifyZoneToken(string(b), keys, epoch); err == nil {
			t.Fatalf("%q passes as %+v", b, got)
		}
	})
}

func TestAllows(t *testing.T) {
	token := DataplaneToken{DataplaneClaims: DataplaneClaims{
		Name: "web-1", Mesh: "default", Tags: map[string][]string{"kuma.io/service": {"web", "web-admin"}},
	}}
	tags := func(services ...string) map[string][]string {
		return map[string][]string{"kuma.io/service": services, "version": {"v1"}}
	}
	tests := []struct {
		title      string
		token      DataplaneToken
		name, mesh string
		tags       map[string][]string
		ingress    bool
		refusal    string
	}{
		{"fits", token, "web-1", "default", tags("web"), false, ""},
		{"all of several values", token, "web-1", "default", tags("web", "web-admin"), false, ""},
		{"one of several values is not allowed", token, "web-1", "default", tags("web", "db"), false, `"db"`},
		{"another name", token, "web-2", "default", tags("web"), false, "name"},
		{"another mesh", token, "web-1", "prod", tags("web"), false, "mesh"},
		{"no such tag", token, "web-1", "default", nil, false, "kuma.io/service"},
		{"an ingress", token, "web-1", "default", tags("web"), true, "ingress"},
		{"good for all", DataplaneToken{}, "x", "y", nil, false, ""},
		{"ingress token", DataplaneToken{DataplaneClaims: DataplaneClaims{Type: TypeIngress}}, "x", "y", nil, true, ""},
		{"ingress token for a proxy", DataplaneToken{DataplaneClaims: DataplaneClaims{Type: TypeIngress}}, "x", "y", nil, false, "type"},
		{"unknown type", DataplaneToken{DataplaneClaims: DataplaneClaims{Type: "x"}}, "x", "y", nil, false, "type"},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			err := tt.token.Allows(tt.name, tt.mesh, tt.tags, tt.ingress)
			if (err == nil) != (tt.refusal == "") || err != nil && !strings.Contains(err.Error(), tt.refusal) {
				t.Errorf("got %v, want %q", err, tt.refusal)
			}
		})
	}
}

func TestParseSigningKey(t *testing.T) {
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rs := must(rsa.GenerateKey(rand.Reader, minRSABits))
	forms := map[string][]byte{
		"SEC 1":      must(x509.MarshalECPrivateKey(ec)),
		"PKCS#8 EC":  must(x509.MarshalPKCS8PrivateKey(ec)),
		"PKCS#1":     x509.MarshalPKCS1PrivateKey(rs),
		"PKCS#8 RSA": must(x509.MarshalPKCS8PrivateKey(rs)),
	}
	ids := map[string]string{}
	for name, der := range forms {
		a, err := ParseSigningKey(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := ParseSigningKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if err != nil || a.ID != b.ID || len(a.ID) != 16 {
			t.Errorf("%s: %q and as PEM %q, %v", name, a.ID, b.ID, err)
		}
		kid, key, err := ParsePublicKey(a.PublicDER())
		if err != nil || kid != a.ID || !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(a.Signer.Public()) {
			t.Errorf("%s: public half: %q, %v", name, kid, err)
		}
		ids[name] = a.ID
	}
	if ids["SEC 1"] != ids["PKCS#8 EC"] || ids["PKCS#1"] != ids["PKCS#8 RSA"] {
		t.Errorf("the id depends on the form: %v", ids)
	}
	big := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for name, data := range map[string][]byte{"empty": nil, "noise": []byte("noise"), "P-384": must(x509.MarshalECPrivateKey(big))} {
		if _, err := ParseSigningKey(data); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func incoming(token ...string) context.Context {
	md := metadata.MD{}
	md.Append("authorization", token...)
	return metadata.NewIncomingContext(context.Background(), md)
}

func TestZoneAuthenticatorByToken(t *testing.T) {
	k := zoneKey(t)
	keys := keysOf(k)
	now := epoch
	a := NewZoneAuthenticator(ZoneByToken, keys)
	a.Now = func() time.Time { return now }
	token := must(IssueZoneToken(k, "zone-1", time.Hour, epoch))
	for _, form := range []string{token, "Bearer " + token, "bearer " + token + "\n"} {
		zone, c, err := a.AuthenticateZone(incoming(form))
		if err != nil || zone != "zone-1" || !c.Expires.Equal(epoch.Add(time.Hour)) || c.ID == "" || c.Key != k.ID {
			t.Errorf("%.10s…: %q, %+v, %v", form, zone, c, err)
		}
	}
	for name, ctx := range map[string]context.Context{
		"no metadata": context.Background(), "none": incoming(), "empty": incoming(""), "bearer alone": incoming("Bearer "),
		"two": incoming(token, token), "wrong": incoming("Bearer x"),
	} {
		_, _, err := a.AuthenticateZone(ctx)
		var r *RefusedError
		if !errors.As(err, &r) || status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "authentication failed: "+err.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A token that is remembered ends with its time and with its key.
	now = epoch.Add(time.Hour)
	if _, _, err := a.AuthenticateZone(incoming(token)); !errors.Is(err, ErrExpired) {
		t.Errorf("remembered beyond its end: %v", err)
	}
	now = epoch
	keys[k.ID] = zoneKey(t).Signer.Public()
	if _, _, err := a.AuthenticateZone(incoming(token)); !errors.Is(err, ErrSignature) {
		t.Errorf("remembered beyond its key: %v", err)
	}
	delete(keys, k.ID)
	if _, _, err := a.AuthenticateZone(incoming(token)); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("remembered beyond its key: %v", err)
	}
}

func TestZoneAuthenticatorByCertificate(t *testing.T) {
	call := func(c *x509.Certificate) context.Context {
		info := credentials.TLSInfo{}
		if c != nil {
			info.State = tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c}}}
		}
		return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info})
	}
	a := NewZoneAuthenticator(ZoneByCertificate, nil)
	until := epoch.Add(time.Hour)
	for name, tt := range map[string]struct {
		ctx  context.Context
		zone string
	}{
		"CN":          {call(&x509.Certificate{Subject: pkix.Name{CommonName: "zone-1"}, DNSNames: []string{"x"}, NotAfter: until}), "zone-1"},
		"SAN":         {call(&x509.Certificate{DNSNames: []string{"zone-2", "x"}, NotAfter: until}), "zone-2"},
		"neither":     {call(&x509.Certificate{}), ""},
		"global":      {call(&x509.Certificate{Subject: pkix.Name{CommonName: "global"}}), ""},
		"no label":    {call(&x509.Certificate{Subject: pkix.Name{CommonName: "a b"}}), ""},
		"unverified":  {call(nil), ""},
		"no TLS":      {context.Background(), ""},
		"token alone": {incoming("x"), ""},
	} {
		zone, c, err := a.AuthenticateZone(tt.ctx)
		if zone != tt.zone || (err == nil) != (tt.zone != "") || err == nil && (!c.Expires.Equal(until) || c.ID == "") {
			t.Errorf("%s: %q, %+v, %v", name, zone, c, err)
		}
	}
	if zone, _, err := NewZoneAuthenticator(None, nil).AuthenticateZone(context.Background()); zone != "" || err != nil {
		t.Errorf("none: %q, %v", zone, err)
	}
	if _, _, err := (&ZoneAuthenticator{}).AuthenticateZone(context.Background()); err == nil {
		t.Error("no mode lets in")
	}
}

func TestProxyAuthenticator(t *testing.T) {
	k, other := meshKey(t), meshKey(t)
	a := NewProxyAuthenticator(ProxyByToken, func(mesh string) Keys {
		switch mesh {
		case "default":
			return keysOf(k)
		case "other":
			return keysOf(other)
		}
		return nil
	})
	a.Now = func() time.Time { return epoch }
	tags := map[string][]string{"kuma.io/service": {"web"}}
	token := must(IssueDataplaneToken(k, DataplaneClaims{Mesh: "default", Tags: tags}, time.Hour, epoch))
	ctx := context.Background()
	for range 2 { // the second time from memory
		c, err := a.AuthenticateProxy(ctx, token, "default", "web-1", tags, false)
		if err != nil || !c.Expires.Equal(epoch.Add(time.Hour)) || c.ID == "" || c.Key != k.ID {
			t.Fatalf("%+v, %v", c, err)
		}
	}
	if _, err := a.AuthenticateProxy(ctx, token, "default", "web-1", map[string][]string{"kuma.io/service": {"db"}}, false); err == nil {
		t.Error("another service passes")
	}
	for _, mesh := range []string{"other", "nowhere"} {
		if _, err := a.AuthenticateProxy(ctx, token, mesh, "web-1", tags, false); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("mesh %s: %v", mesh, err)
		}
	}
	if _, err := a.AuthenticateProxy(ctx, "", "default", "web-1", tags, false); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no token: %v", err)
	}
	a = NewProxyAuthenticator(None, nil)
	if c, err := a.AuthenticateProxy(ctx, "", "default", "web-1", nil, false); err != nil || c.ID != "" || !c.Expires.IsZero() {
		t.Errorf("none: %+v, %v", c, err)
	}
}

func FuzzVerify(f *testing.F) {
	k, mesh := zoneKey(f), meshKey(f)
	f.Add(must(IssueZoneToken(zoneKey(f), "zone-1", time.Hour, epoch)))
	f.Add(must(IssueDataplaneToken(meshKey(f), DataplaneClaims{}, time.Hour, epoch)))
	f.Add(must(IssueUserToken(zoneKey(f), "ann", RoleAdmin, time.Hour, epoch)))
	f.Add(craft(f, jwt.SigningMethodNone, k.ID, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"zone": "zone-1", "exp": 1 << 40}))
	f.Add(craft(f, jwt.SigningMethodHS256, k.ID, k.PublicDER(), jwt.MapClaims{"zone": "zone-1", "exp": 1 << 40}))
	f.Add("..")
	f.Add(`e30.e30.`)
	keys := keysOf(k, mesh)
	// The keys sign nothing here, so nothing may pass.
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := VerifyZoneToken(token, keys, epoch); err == nil {
			t.Errorf("%q passes as %+v", token, got)
		}
		if got, err := VerifyDataplaneToken(token, keys, epoch); err == nil {
			t.Errorf("%q passes as %+v", token, got)
		}
		if got, err := VerifyUserToken(token, keys, epoch); err == nil {
			t.Errorf("%q passes as %+v", token, got)
		}
	})
}

// FuzzAuthorization: whatever stands in the header, it never makes a user, nor a panic.
func FuzzAuthorization(f *testing.F) {
	a := NewUserAuthenticator(keysOf(zoneKey(f)), nil)
	for _, s := range []string{"", "Bearer", "Bearer ", "Basic YTpi", "bearer a.b.c", "Bearer  \x00", "Bearer Bearer x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, _, err := a.AuthenticateUser(Caller{TLS: true, Authorization: []string{value}})
		if err == nil || c.User != nil {
			t.Errorf("%q passes as %+v", value, c.User)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	k := zoneKey(f)
	f.Add(k.PublicDER())
	f.Add(must(NewES256Key()))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := ParseSigningKey(data); err == nil && key.ID == "" {
			t.Error("a key with no id")
		}
		if kid, key, err := ParsePublicKey(data); err == nil && (kid == "" || key == nil) {
			t.Error("a key with no id")
		}
	})
}
