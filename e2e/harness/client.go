package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Client speaks REST with one control plane. It is safe for concurrent use.
type Client struct {
	// Base is the URL without a trailing slash.
	Base string
	HTTP *http.Client
}

// NewClient is a client of the plain API at host:port, with connections of its own.
func NewClient(addr string) *Client {
	return &Client{Base: "http://" + addr, HTTP: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.HTTP.CloseIdleConnections() }

// StatusError is an answer other than a success.
type StatusError struct {
	Method, Path string
	Code         int
	Body         string
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d: %s", e.Method, e.Path, e.Code, strings.TrimSpace(e.Body))
}

// Do sends a request with a JSON body (nil: none; a string as it stands) and headers (names and values in turn),
// and returns the body of a success.
func (c *Client) Do(ctx context.Context, method, path string, body any, headers ...string) ([]byte, http.Header, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, nil, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, r)
	if err != nil {
		return nil, nil, err
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, nil, &StatusError{Method: method, Path: path, Code: resp.StatusCode, Body: string(raw)}
	}
	return raw, resp.Header, nil
}

// Get reads JSON.
func (c *Client) Get(ctx context.Context, path string, into any) error {
	raw, _, err := c.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// Await waits until the control plane's own config log has come to a revision; at most 5 s.
func (c *Client) Await(ctx context.Context, rev uint64) error {
	_, _, err := c.Do(ctx, http.MethodGet, "/meshes/default", nil, "Meridian-Min-Revision", strconv.FormatUint(rev, 10))
	return err
}

// Put writes an object and returns its revision.
func (c *Client) Put(ctx context.Context, path string, body any) (uint64, error) {
	_, h, err := c.Do(ctx, http.MethodPut, path, body)
	if err != nil {
		return 0, err
	}
	return revision("PUT", path, h)
}

// Delete removes an object and returns the revision.
func (c *Client) Delete(ctx context.Context, path string) (uint64, error) {
	_, h, err := c.Do(ctx, http.MethodDelete, path, nil)
	if err != nil {
		return 0, err
	}
	return revision("DELETE", path, h)
}

func revision(method, path string, h http.Header) (uint64, error) {
	rev, err := strconv.ParseUint(h.Get("Meridian-Revision"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %s: Meridian-Revision %q", method, path, h.Get("Meridian-Revision"))
	}
	return rev, nil
}

// ZoneToken issues a token for a zone.
func (c *Client) ZoneToken(ctx context.Context, zone string, validFor time.Duration) (string, error) {
	raw, _, err := c.Do(ctx, http.MethodPost, "/tokens/zone", map[string]string{"zone": zone, "validFor": validFor.String()})
	return string(raw), err
}

// DataplaneToken issues a token for a dataplane of a mesh; an empty name stands for any.
func (c *Client) DataplaneToken(ctx context.Context, mesh, name string) (string, error) {
	raw, _, err := c.Do(ctx, http.MethodPost, "/tokens", map[string]string{"mesh": mesh, "name": name})
	return string(raw), err
}

// Items is one page of a list, all of it in these tests.
type Items[T any] struct {
	Total int `json:"total"`
	Items []T `json:"items"`
}

// ZoneStatus is an item of /status/zones.
type ZoneStatus struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	Active bool   `json:"active"`
}

// ZoneStatus reads /status/zones, by name.
func (c *Client) ZoneStatus(ctx context.Context) (map[string]ZoneStatus, error) {
	var list []ZoneStatus
	if err := c.Get(ctx, "/status/zones", &list); err != nil {
		return nil, err
	}
	zones := map[string]ZoneStatus{}
	for _, z := range list {
		zones[z.Name] = z
	}
	return zones, nil
}

// Position is how far a zone has come. Revisions are decimal strings on the wire.
type Position struct {
	Applied  uint64          `json:"applied,string"`
	Live     uint64          `json:"live,string"`
	Head     uint64          `json:"head,string"`
	Lagging  json.RawMessage `json:"lagging"`
	Rejected json.RawMessage `json:"rejected"`
}

// ZonePosition reads the position from a zone's overview.
func (c *Client) ZonePosition(ctx context.Context, zone string) (Position, error) {
	var o struct {
		Position Position `json:"position"`
	}
	err := c.Get(ctx, "/zones+insights/"+zone, &o)
	return o.Position, err
}

// ProxyLive reads up to which revision a proxy is live.
func (c *Client) ProxyLive(ctx context.Context, mesh, name string) (uint64, error) {
	var o struct {
		Position struct {
			Live uint64 `json:"live,string"`
		} `json:"position"`
	}
	err := c.Get(ctx, "/meshes/"+mesh+"/dataplanes+insights/"+name, &o)
	return o.Position.Live, err
}
