package zonedp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/meridian-mesh/meridian/pkg/version"
)

const (
	// attemptTime is how long one request to the control plane may take.
	attemptTime = 10 * time.Second
	// goodbyeTime is how long taking leave may take.
	goodbyeTime = 2 * time.Second
	// maxBootstrap bounds the answer, in bytes; maxReason what is kept of a refusal.
	maxBootstrap = 4 << 20
	maxReason    = 2 << 10
)

// client speaks with the zone control plane's port for proxies.
type client struct {
	// base is nil until the catalog of api has told it.
	base, api *url.URL
	http      *http.Client
	token     string
}

func newClient(s *settings) *client {
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots}
	if s.roots == nil {
		// Documented: without a CA whoever answers is believed, and a warning says so.
		t.InsecureSkipVerify = true
	}
	c := &client{http: &http.Client{Transport: &http.Transport{TLSClientConfig: t}}, token: s.Token}
	if s.isAPI {
		c.api = s.address
	} else {
		c.base = s.address
	}
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer other than 2xx.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the control plane answered %d %s", r.status, http.StatusText(r.status))
	if r.reason != "" {
		text += ": " + r.reason
	}
	return text
}

// final tells whether asking again is no use. 404 means that the dataplane is not registered yet.
func (r *refusal) final() bool {
	return r.status >= 400 && r.status < 500 && r.status != http.StatusNotFound
}

// post sends JSON and gives the body of the answer.
func (c *client) post(ctx context.Context, path string, body any, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBootstrap+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		answer = answer[:min(len(answer), maxReason)]
		return nil, &refusal{resp.StatusCode, strings.Join(strings.Fields(string(answer)), " ")}
	}
	if len(answer) > maxBootstrap {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxBootstrap)
	}
	return answer, nil
}

// bootstrapRequest is the published body.
type bootstrapRequest struct {
	Mesh              string    `json:"mesh"`
	Name              string    `json:"name"`
	AdminPort         uint16    `json:"adminPort,omitempty"`
	DataplaneToken    string    `json:"dataplaneToken,omitempty"`
	DataplaneResource string    `json:"dataplaneResource,omitempty"`
	Version           dpVersion `json:"version"`
	CACert            string    `json:"caCert,omitempty"`
	BootstrapVersion  string    `json:"bootstrapVersion"`
}

type dpVersion struct {
	KumaDP version.Info `json:"kumaDp"`
	Envoy  envoyVersion `json:"envoy"`
}

// fetch asks for the bootstrap until it gets one, is refused for good, or the time is up.
func (c *client) fetch(ctx context.Context, s *settings, admin uint16, envoy envoyVersion, log *slog.Logger) ([]byte, error) {
	body := bootstrapRequest{
		Mesh: s.Mesh, Name: s.Name, AdminPort: admin, DataplaneToken: s.Token, DataplaneResource: s.resource,
		Version: dpVersion{KumaDP: version.Get(), Envoy: envoy}, CACert: s.CACert, BootstrapVersion: "3",
	}
	until := time.Now().Add(s.RetryMaxDuration)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-retry.C:
		}
		var answer []byte
		var err error
		if c.base == nil {
			c.base, err = c.discover(ctx)
		}
		if err == nil {
			answer, err = c.post(ctx, "/bootstrap", body, attemptTime)
		}
		var r *refusal
		switch {
		case err == nil && len(bytes.TrimSpace(answer)) == 0:
			err = errors.New("the answer is empty")
		case err == nil:
			return answer, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &r) && r.final(), errors.Is(err, errNowhere):
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		if time.Now().Add(s.RetryBackoff).After(until) {
			return nil, fmt.Errorf("bootstrap: given up after %s: %w", s.RetryMaxDuration, err)
		}
		log.Warn("no bootstrap yet", "error", err, "again in", s.RetryBackoff)
		retry.Reset(s.RetryBackoff)
	}
}

// goodbye tells the control plane that the proxy goes, so that others stop sending to it at once.
func (c *client) goodbye(ctx context.Context, s *settings) error {
	if c.base == nil {
		return nil // it has never been there
	}
	_, err := c.post(ctx, "/goodbye", struct {
		Mesh string `json:"mesh"`
		Name string `json:"name"`
	}{s.Mesh, s.Name}, goodbyeTime)
	// One that is not there any more needs no goodbye: the end of its stream was seen first.
	if r := (*refusal)(nil); err == nil || errors.As(err, &r) && r.status == http.StatusNotFound {
		return nil
	}
	return fmt.Errorf("goodbye: %w", err)
}

// adminAddress gives where a bootstrap makes Envoy's admin listen, as the control plane may have chosen; "" if
// nowhere.
func adminAddress(bootstrap []byte) (string, error) {
	type socket struct {
		Address string `yaml:"address"`
		Port    uint16 `yaml:"port_value"`
		// The other spelling of protobuf's JSON.
		PortCamel uint16 `yaml:"portValue"`
	}
	var b struct {
		Admin struct {
			Address struct {
				Socket      *socket `yaml:"socket_address"`
				SocketCamel *socket `yaml:"socketAddress"`
			} `yaml:"address"`
		} `yaml:"admin"`
	}
	if err := yaml.Unmarshal(bootstrap, &b); err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n")
		return "", fmt.Errorf("bootstrap: %s", line)
	}
	a := b.Admin.Address.Socket
	if a == nil {
		a = b.Admin.Address.SocketCamel
	}
	if a == nil {
		return "", nil
	}
	host := a.Address
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.Port|a.PortCamel))), nil
}
