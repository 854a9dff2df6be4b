package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

const (
	// watchSilence is how long a control plane may say nothing on a watch: it says something every 15 s.
	watchSilence = time.Minute
	// watchPause is how long to wait before coming back after a stream that brought nothing.
	watchPause = time.Second
	// maxEvent bounds one event, in bytes.
	maxEvent = 16 << 20
)

// errSilent: the control plane says nothing any more.
var errSilent = fmt.Errorf("nothing came for %s", watchSilence)

// event is one server-sent event; without a name it is a comment.
type event struct {
	name, id string
	data     []byte
}

// follow hands over the events of a watch until show fails, the control plane refuses, or ctx ends. When the stream
// breaks it comes back to where it was.
func (c *client) follow(ctx context.Context, path []string, show func(event) error) error {
	// There is no end to a stream; that it is silent ends it.
	c.http.Timeout = 0
	after := ""
	for {
		progress := false
		err := c.stream(ctx, path, after, func(e event) error {
			progress = true
			if e.id != "" {
				after = e.id
			}
			if e.name == "" {
				return nil
			}
			return show(e)
		})
		var refused *APIError
		var mine *showError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &mine):
			return mine.error
		case errors.As(err, &refused) && refused.Status != http.StatusServiceUnavailable, after == "":
			return err
		}
		c.log.Debug("the watch broke, coming back", "error", err)
		if !progress {
			pause := time.NewTimer(watchPause)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return nil
			}
		}
	}
}

// showError is an error of who is shown events.
type showError struct{ error }

// stream hands over the events of one request.
func (c *client) stream(ctx context.Context, path []string, after string, take func(event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	query := url.Values{"watch": {"true"}}
	if after != "" {
		query.Set("after", after)
	}
	u, err := c.url(path, query)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	silent := time.AfterFunc(watchSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		return refusal(resp.StatusCode, body)
	}
	return readEvents(resp.Body, func(e event) error {
		silent.Reset(watchSilence)
		if err := take(e); err != nil {
			return &showError{err}
		}
		return nil
	})
}

// readEvents reads server-sent events as they are written here: lines end with a newline alone.
func readEvents(r io.Reader, take func(event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var e event
	size := 0
	for lines.Scan() {
		line := lines.Bytes()
		if size += len(line); size > maxEvent {
			return fmt.Errorf("an event is larger than %d bytes", maxEvent)
		}
		if len(line) == 0 {
			if err := take(e); err != nil {
				return err
			}
			e, size = event{}, 0
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = string(value)
		case "id":
			e.id = string(value)
		case "data":
			if e.data != nil {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return io.ErrUnexpectedEOF
}

// watch shows what there is of a kind, or of one of its names, and then what changes: a line for each event as a table,
// else the event with its data.
func (t *tool) watch(c *cobra.Command, cp *client, d *resource.Descriptor, names []string) error {
	path, only := collection(d, t.mesh), ""
	switch {
	case len(names) == 0:
	case d.Kind == resource.KindMesh:
		only = names[0] // its own path stands for all that belongs to it
	default:
		path = item(d, t.mesh, names[0])
	}
	out := c.OutOrStdout()
	return cp.follow(c.Context(), path, func(e event) error {
		var of subject
		if err := json.Unmarshal(e.data, &of); err != nil {
			return fmt.Errorf("an event can't be read: %w", err)
		}
		if only != "" && of.Name != "" && of.Name != only {
			return nil
		}
		if t.output == "table" {
			_, err := fmt.Fprintln(out, inLine(of.line(e.name)))
			return err
		}
		doc, err := json.Marshal(struct {
			Event string          `json:"event"`
			Data  json.RawMessage `json:"data"`
		}{e.name, e.data})
		if err != nil {
			return fmt.Errorf("an event can't be read: %w", err)
		}
		if t.output == "yaml" {
			if _, err := io.WriteString(out, "---\n"); err != nil {
				return err
			}
		}
		return printItem(out, t.output, doc)
	})
}

// subject is what an event is about.
type subject struct{ Type, Mesh, Name, Revision string }

func (s subject) line(event string) string {
	parts := []string{fmt.Sprintf("%-6s", event)}
	switch {
	case s.Mesh != "":
		parts = append(parts, s.Type, s.Mesh+"/"+s.Name)
	case s.Name != "":
		parts = append(parts, s.Type, s.Name)
	}
	if s.Revision != "" {
		parts = append(parts, "revision", s.Revision)
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}
