// Package ctl holds meridianctl's commands: a client of the REST API.
package ctl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// requestTime is how long one request may take.
	requestTime = 60 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 20
	// maxFile bounds what is applied at once, in bytes: an export of 100,000 objects fits.
	maxFile = 256 << 20
)

// connection says which control plane to speak with, and as whom.
type connection struct {
	address                       string
	caCertFile                    string
	clientCertFile, clientKeyFile string
	skipVerify                    bool
	userTokenFile                 string
}

// over gives the connection of a context, but for what the flags say.
func (c connection) over(at apiServer) connection {
	c.address = at.URL
	c.skipVerify = c.skipVerify || at.SkipVerify
	if c.clientCertFile == "" && c.clientKeyFile == "" {
		c.clientCertFile, c.clientKeyFile = at.ClientCertFile, at.ClientKeyFile
	}
	if c.caCertFile == "" {
		c.caCertFile = at.CACertFile
	}
	if c.userTokenFile == "" {
		c.userTokenFile = at.UserTokenFile
	}
	return c
}

// client is a client of one control plane.
type client struct {
	base *url.URL
	http *http.Client
	log  *slog.Logger
}

func (c connection) open() (*client, error) {
	base, err := url.Parse(c.address)
	if err != nil {
		return nil, fmt.Errorf("--address: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, usagef("--address: must be http://host:port or https://host:port, got %q", base.Redacted())
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.skipVerify} //nolint:gosec // only when asked for by name
	if c.caCertFile != "" {
		pem, err := os.ReadFile(c.caCertFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-cert-file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-cert-file: %s: no PEM certificate", c.caCertFile)
		}
	}
	if c.clientCertFile != "" || c.clientKeyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.clientCertFile, c.clientKeyFile)
		if err != nil {
			return nil, fmt.Errorf("--client-cert-file and --client-key-file: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	transport, err := c.authenticated(base, &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: t})
	if err != nil {
		return nil, err
	}
	return &client{base: base, log: slog.New(slog.DiscardHandler), http: &http.Client{
		Timeout:   requestTime,
		Transport: transport,
		// A redirected PUT would become a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// APIError is a refusal by the control plane.
type APIError struct {
	Status  int     `json:"-"`
	Title   string  `json:"title"`
	Details string  `json:"details"`
	Causes  []Cause `json:"causes"`
}

// Cause is one thing that is wrong with a body.
type Cause struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Error gives title and details, and a line for each cause.
func (e *APIError) Error() string {
	var b strings.Builder
	b.WriteString(e.Title)
	if e.Details != "" {
		fmt.Fprintf(&b, " (%s)", e.Details)
	}
	for _, c := range e.Causes {
		fmt.Fprintf(&b, "\n* %s: %s", c.Field, c.Message)
	}
	return b.String()
}

// Multiline says that the error is meant to be shown in lines.
func (e *APIError) Multiline() bool { return true }

// answer is what a request was answered with.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request. Anything but a 2xx is an error. The parts of the path are escaped.
func (c *client) do(ctx context.Context, method string, path []string, query url.Values, contentType string, body []byte) (answer, error) {
	u, err := c.url(path, query)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.send(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	if len(data) > maxAnswer {
		return answer{}, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return answer{}, refusal(resp.StatusCode, data)
	}
	return answer{resp.StatusCode, resp.Header, data}, nil
}

// url puts a URL together.
func (c *client) url(path []string, query url.Values) (string, error) {
	for _, part := range path {
		// Joined to the path they would lead to something else: a mesh instead of its policy "..".
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("%q is no name", part)
		}
	}
	u := c.base.JoinPath(path...)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// send sends a request, and says so in the log.
func (c *client) send(req *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		c.log.Debug("request", "method", req.Method, "url", req.URL.String(), "error", err)
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return nil, fmt.Errorf("%w (--ca-cert-file names the file of its CA)", err)
		}
		// What the other side says of certificates, it says of ours.
		var remote *net.OpError
		if errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "certificate") {
			return nil, fmt.Errorf("%w (of the client certificate, which apiServer.auth.clientCertsDir there has to vouch for)", err)
		}
		return nil, err
	}
	c.log.Debug("request", "method", req.Method, "url", req.URL.String(), "status", resp.StatusCode, "took", time.Since(begun))
	return resp, nil
}

// refusal reads an error body. One that is not ours is shown as it is.
func refusal(status int, body []byte) error {
	e := APIError{Status: status}
	if json.Unmarshal(body, &e) == nil && e.Title != "" {
		return &e
	}
	text := strings.TrimSpace(string(body))
	if text == "" {
		text = http.StatusText(status)
	}
	return &APIError{Status: status, Title: fmt.Sprintf("%d: %s", status, text)}
}

// list is one page of a list, or all of them.
type list struct {
	Total int               `json:"total"`
	Items []json.RawMessage `json:"items"`
	Next  *string           `json:"next"`
}

// all reads a list page by page.
func (c *client) all(ctx context.Context, path []string, query url.Values) (list, error) {
	out := list{Items: []json.RawMessage{}} // printed as [] when there are none, as the API does
	for {
		page, err := c.page(ctx, path, query)
		if err != nil {
			return list{}, err
		}
		out.Total = page.Total
		out.Items = append(out.Items, page.Items...)
		offset, err := offsetOf(page.Next)
		if err != nil {
			return list{}, err
		}
		if offset == "" {
			return out, nil
		}
		if offset == query.Get("offset") {
			return list{}, errors.New("the list's next page is the one before")
		}
		query.Set("offset", offset)
	}
}

func (c *client) page(ctx context.Context, path []string, query url.Values) (list, error) {
	a, err := c.do(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return list{}, err
	}
	page := list{Items: []json.RawMessage{}}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return list{}, fmt.Errorf("the answer is no list: %w", err)
	}
	return page, nil
}

// offsetOf gives the offset in a link to the next page; "" if there is none.
func offsetOf(next *string) (string, error) {
	if next == nil {
		return "", nil
	}
	u, err := url.Parse(*next)
	if err != nil {
		return "", fmt.Errorf("the list's next page: %w", err)
	}
	return u.Query().Get("offset"), nil
}
