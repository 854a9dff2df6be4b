package ctl

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// bearer sends a user token with each request.
type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// CloseIdleConnections lets http.Client close those of the transport below.
func (b bearer) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// readToken reads a file with one token in it.
func readToken(flag, file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \r\n") {
		return "", fmt.Errorf("%s: %s holds no token", flag, file)
	}
	return token, nil
}

// authenticated adds the user token to a transport. It is never sent where others can read it.
func (c connection) authenticated(base *url.URL, t http.RoundTripper) (http.RoundTripper, error) {
	if c.userTokenFile == "" {
		return t, nil
	}
	if base.Scheme != "https" && !loopback(base) {
		return nil, fmt.Errorf("--user-token-file: a token is sent over https only, --address is %s", c.address)
	}
	token, err := readToken("--user-token-file", c.userTokenFile)
	if err != nil {
		return nil, err
	}
	return bearer{token, t}, nil
}

// loopback says that an address is on this machine.
func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

func (t *tool) userToken() *cobra.Command {
	var name, role string
	var validFor time.Duration
	c := &cobra.Command{
		Use: "user-token", Short: "Make a token with which a person or a program uses the API over the network", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.token(c, []string{"tokens", "user"}, struct {
				Name     string `json:"name"`
				Role     string `json:"role"`
				ValidFor string `json:"validFor"`
			}{name, role, validFor.String()})
		},
	}
	c.Flags().StringVar(&name, "name", "", "whose token it is; audit lines have it")
	c.Flags().StringVar(&role, "role", "writer", "writer (all but secrets and tokens) or admin")
	completes(c, "role", "writer", "admin")
	c.Flags().DurationVar(&validFor, "valid-for", 720*time.Hour, "for how long the token holds")
	_ = c.MarkFlagRequired("name")
	return c
}

func (t *tool) signingKey() *cobra.Command {
	var use string
	c := &cobra.Command{
		Use: "signing-key", Short: "Make the next key that tokens are signed with", Args: cobra.NoArgs,
		Long: "Make the next key that tokens of one use are signed with. The control plane makes it and keeps its private half.\n" +
			"Tokens of the keys before it hold until their key is deleted (delete global-secret, delete secret) or revoked.",
		RunE: func(c *cobra.Command, _ []string) error {
			body := map[string]string{"use": use}
			if use == "dataplane" {
				body["mesh"] = t.mesh
			}
			data, err := json.Marshal(body)
			if err != nil {
				return err
			}
			return t.with(c, func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodPost, []string{"signing-keys"}, nil, "application/json", data)
				if err != nil {
					return err
				}
				var made struct{ Name, Kid, Revision string }
				if err := json.Unmarshal(a.body, &made); err != nil {
					return fmt.Errorf("the answer can't be read: %w", err)
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s made, kid %s, revision %s\n", made.Name, made.Kid, made.Revision)
				return err
			})
		},
	}
	c.Flags().StringVar(&use, "use", "", "zone, user, or dataplane (of --mesh)")
	completes(c, "use", "zone", "user", "dataplane")
	_ = c.MarkFlagRequired("use")
	return c
}

func (t *tool) revoke() *cobra.Command {
	var tokenFile, jti, kid, certFile, expires, note string
	c := &cobra.Command{
		Use: "revoke", Short: "Take back a token, all tokens of a key, or a client certificate", Args: cobra.NoArgs,
		Long: "Take back a token, all tokens of a signing key, or a client certificate, at once and in every zone. Streams and calls\n" +
			"that rest on it end. It is a resource like others: get revocations lists, delete revocation undoes.",
		RunE: func(c *cobra.Command, _ []string) error {
			id := jti + kid
			var until time.Time
			var err error
			switch {
			case tokenFile != "":
				id, until, err = ofToken(tokenFile)
			case certFile != "":
				id, until, err = ofCertificate(certFile)
			}
			if err != nil {
				return err
			}
			if expires != "" {
				if until, err = time.Parse(time.RFC3339, expires); err != nil {
					return usagef("--expires: must be a time such as 2027-01-31T00:00:00Z")
				}
			}
			body := map[string]any{"type": string(resource.KindRevocation), "name": id}
			if !until.IsZero() {
				body["expires"] = until.UTC().Format(time.RFC3339)
			}
			if note != "" {
				body["note"] = note
			}
			data, err := json.Marshal(body)
			if err != nil {
				return err
			}
			d, ok := t.table.ByKind(resource.KindRevocation)
			if !ok {
				return resource.ErrUnknownKind
			}
			return t.with(c, func(cp *client) error {
				a, err := cp.do(c.Context(), http.MethodPut, item(d, "", id), nil, "application/json", data)
				if err != nil {
					return err
				}
				return report(c.OutOrStdout(), d, "", id, "revoked", a)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&tokenFile, "token-file", "", "the token in this file")
	f.StringVar(&jti, "jti", "", "the token with this id")
	f.StringVar(&kid, "kid", "", "all tokens that the key with this id has signed")
	f.StringVar(&certFile, "cert-file", "", "the client certificate in this PEM file")
	f.StringVar(&expires, "expires", "", "when it would end anyway, after which the revocation may be forgotten (default: as the token or certificate says; else never)")
	f.StringVar(&note, "note", "", "why")
	c.MarkFlagsOneRequired("token-file", "jti", "kid", "cert-file")
	c.MarkFlagsMutuallyExclusive("token-file", "jti", "kid", "cert-file")
	return c
}

// ofToken gives the id of a token and when it ends. Nothing is verified: who revokes need not have the key.
func ofToken(file string) (id string, until time.Time, err error) {
	token, err := readToken("--token-file", file)
	if err != nil {
		return "", time.Time{}, err
	}
	var claims struct {
		ID  string `json:"jti"`
		Exp int64  `json:"exp"`
	}
	parts := strings.Split(token, ".")
	if len(parts) == 3 {
		var payload []byte
		if payload, err = base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			err = json.Unmarshal(payload, &claims)
		}
	}
	if len(parts) != 3 || err != nil {
		return "", time.Time{}, fmt.Errorf("--token-file: %s holds no token", file)
	}
	if claims.ID == "" {
		// Only legacy tokens hold without an id.
		claims.ID = auth.TokenFingerprint(token)
	}
	if claims.Exp > 0 {
		until = time.Unix(claims.Exp, 0)
	}
	return claims.ID, until, nil
}

// ofCertificate gives the fingerprint of a certificate and when it ends.
func ofCertificate(file string) (id string, until time.Time, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("--cert-file: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", time.Time{}, fmt.Errorf("--cert-file: %s does not begin with a PEM certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("--cert-file: %s: %w", file, err)
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:]), cert.NotAfter, nil
}
