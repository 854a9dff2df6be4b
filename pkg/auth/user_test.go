package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestUserToken(t *testing.T) {
	k := zoneKey(t)
	token := must(IssueUserToken(k, "ann@example.com", RoleWriter, time.Hour, epoch))
	got, err := VerifyUserToken(token, keysOf(k), epoch)
	if err != nil || got.ID == "" || !got.Expires.Equal(epoch.Add(time.Hour)) {
		t.Fatalf("%+v, %v", got, err)
	}
	want := UserToken{Name: "ann@example.com", Role: RoleWriter, ID: got.ID, KeyID: k.ID, Expires: got.Expires}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := VerifyUserToken(must(IssueZoneToken(k, "z", time.Hour, epoch)), keysOf(k), epoch); !errors.Is(err, ErrMalformed) {
		t.Errorf("a zone token as a user's: %v", err)
	}
	if _, err := VerifyZoneToken(token, keysOf(k), epoch); !errors.Is(err, ErrMalformed) {
		t.Errorf("a user token as a zone's: %v", err)
	}
	for field, issue := range map[string]func() (string, error){
		"name":     func() (string, error) { return IssueUserToken(k, "a b", RoleAdmin, time.Hour, epoch) },
		"role":     func() (string, error) { return IssueUserToken(k, "a", "root", time.Hour, epoch) },
		"validFor": func() (string, error) { return IssueUserToken(k, "a", RoleAdmin, 0, epoch) },
	} {
		if token, err := issue(); err == nil || token != "" || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: got %q, %v", field, token, err)
		}
	}
}

// What a call shows counts, and a call that shows something wrong is not taken for one that shows nothing.
func TestUserAuthenticator(t *testing.T) {
	k := zoneKey(t)
	keys := keysOf(k)
	revoked := map[string]bool{}
	now := epoch
	a := NewUserAuthenticator(keys, func(id string) bool { return revoked[id] })
	a.Now = func() time.Time { return now }
	token := func(name, role string) []string {
		return []string{"Bearer " + must(IssueUserToken(k, name, role, time.Hour, epoch))}
	}
	writer, admin := token("bob", RoleWriter), token("ann", RoleAdmin)
	cert := &x509.Certificate{Raw: []byte("x"), Subject: pkix.Name{CommonName: "ann"}, NotAfter: epoch.Add(time.Hour)}
	here, there := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("10.0.0.7:1")
	policy := AdminPolicy{AllowFromLocalhost: true}
	for name, tt := range map[string]struct {
		caller       Caller
		refused      string
		admin, write bool
		subject      string
	}{
		"nothing":               {caller: Caller{Remote: there, TLS: true}, subject: "address 10.0.0.7"},
		"writer":                {caller: Caller{Remote: there, TLS: true, Authorization: writer}, write: true, subject: "user bob (token "},
		"admin":                 {caller: Caller{Remote: there, TLS: true, Authorization: admin}, write: true, admin: true, subject: "user ann (token "},
		"writer on loopback":    {caller: Caller{Remote: here, Host: "localhost", Authorization: writer}, write: true, subject: "user bob (token "},
		"writer with a cert":    {caller: Caller{Remote: there, TLS: true, Certificate: cert, Authorization: writer}, write: true, subject: "user bob (token "},
		"admin, foreign origin": {caller: Caller{Remote: there, TLS: true, Origin: "https://x", Authorization: admin}, write: true, admin: true, subject: "user ann (token "},
		"cert":                  {caller: Caller{Remote: there, TLS: true, Certificate: cert}, write: true, admin: true, subject: "certificate CN=ann"},
		"loopback":              {caller: Caller{Remote: here, Host: "localhost"}, write: true, admin: true, subject: "loopback 127.0.0.1"},
		"plain":                 {caller: Caller{Remote: there, Authorization: admin}, refused: "plain HTTP"},
		"two":                   {caller: Caller{Remote: there, TLS: true, Authorization: append(writer, admin...)}, refused: "more than one"},
		"basic":                 {caller: Caller{Remote: there, TLS: true, Authorization: []string{"Basic YTpi"}}, refused: "Bearer"},
		"empty":                 {caller: Caller{Remote: here, Host: "localhost", Authorization: []string{""}}, refused: "Bearer"},
		"broken on loopback":    {caller: Caller{Remote: here, Host: "localhost", Authorization: []string{"Bearer x"}}, refused: "malformed"},
	} {
		c, _, err := a.AuthenticateUser(tt.caller)
		if tt.refused != "" {
			if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || policy.Admin(c) != tt.admin || policy.MayWrite(c) != tt.write || !strings.HasPrefix(c.Subject(), tt.subject) {
			t.Errorf("%s: admin %v, write %v, %q, %v", name, policy.Admin(c), policy.MayWrite(c), c.Subject(), err)
		}
	}

	_, credential, err := a.AuthenticateUser(Caller{TLS: true, Authorization: admin})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{credential.ID, credential.Key} {
		revoked[id] = true
		if _, _, err := a.AuthenticateUser(Caller{TLS: true, Authorization: admin}); !errors.Is(err, ErrRevoked) {
			t.Errorf("revoked, but %v", err)
		}
		delete(revoked, id)
	}
	revoked[Fingerprint(cert)] = true
	if _, _, err := a.AuthenticateUser(Caller{TLS: true, Certificate: cert}); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked certificate, but %v", err)
	}
	now = epoch.Add(time.Hour)
	if _, _, err := a.AuthenticateUser(Caller{TLS: true, Authorization: admin}); !errors.Is(err, ErrExpired) {
		t.Errorf("expired, but %v", err)
	}
	now = epoch
	delete(keys, k.ID)
	if _, _, err := a.AuthenticateUser(Caller{TLS: true, Authorization: admin}); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("key gone, but %v", err)
	}
}
