package api

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

const (
	titleBatch   = "Could not process a batch"
	detailsBatch = "Batch is not valid"
	// maxBatchItems is how many items a batch may have, unless Options say otherwise.
	maxBatchItems = 10_000
	// maxBatchWarnings bounds what is kept of what was converted in a batch.
	maxBatchWarnings = 64
)

// Batch implements the ResourceService. What is wrong with the items is told all at once, but what this control
// plane does not take first, and what the caller may not do next.
func (s *Service) Batch(ctx context.Context, req *apiv1.BatchRequest) (*apiv1.BatchResponse, error) {
	if err := s.writesAny(ctx); err != nil {
		return nil, err
	}
	decode, err := s.batchDecoder(incoming(ctx, contentTypeKey))
	if err != nil {
		return nil, err
	}
	dry, err := parseDryRun(titleBatch, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	if err := unconditional(ctx); err != nil {
		return nil, err
	}
	done, err := s.turn(ctx, titleBatch)
	if err != nil {
		return nil, err
	}
	defer done()

	b := &batch{service: s, dry: dry}
	undecoded := decode(s.Table, req.GetBody(), s.MaxBatchItems, func(it resource.BatchItem) { b.take(ctx, it) })
	if err := b.refused(undecoded); err != nil {
		return nil, err
	}
	changes := append(b.puts, b.deletes...)
	paths := append(b.putPaths, b.deletePaths...)
	decided, revision, err := s.perform(ctx, titleBatch, dry || len(changes) == 0, func(config, observed store.View) (decision, error) {
		return b.decide(ctx, config, observed, changes, paths)
	})
	if err != nil {
		return nil, err
	}
	res := &apiv1.BatchResponse{Revision: uint64(revision), Warnings: b.warnings, DryRun: dry, Results: make([]*apiv1.BatchResult, len(changes))}
	for i, c := range changes {
		k := c.target()
		res.Results[i] = &apiv1.BatchResult{Type: string(k.Kind), Mesh: k.Scope, Name: k.Name, Result: decided.results[i].String()}
	}
	return res, nil
}

// MayBatch says why a batch of the caller would be refused whatever is in it, so that it need not be read.
func (s *Service) MayBatch(ctx context.Context) error {
	ctx, done, err := s.authenticated(ctx)
	if err != nil {
		return err
	}
	defer done()
	return s.writesAny(ctx)
}

// writesAny says why nothing at all is written here, or by the caller.
func (s *Service) writesAny(ctx context.Context) error {
	if s.ReadOnly {
		return s.writable(&resource.Descriptor{Kind: "all", Writable: resource.WritableOnGlobal})
	}
	return s.mayWrite(ctx, &resource.Descriptor{})
}

// batchDecoder is decoder for batches.
func (s *Service) batchDecoder(contentType string) (func(*resource.Table, []byte, int, func(resource.BatchItem)) error, error) {
	yaml, err := isYAML(contentType)
	if yaml {
		return s.Limits.DecodeBatchYAML, err
	}
	return s.Limits.DecodeBatchJSON, err
}

// batch gathers the items of a batch.
type batch struct {
	service *Service
	dry     bool

	puts, deletes         []change
	putPaths, deletePaths []string
	warnings              []string
	// elsewhere is what is not written here, forbidden what the caller may not write, wrong what else is wrong.
	elsewhere, forbidden, wrong resource.Violations
	// large is that an item is too large as it would be stored.
	large error
}

func (b *batch) take(ctx context.Context, it resource.BatchItem) {
	s, d := b.service, it.Descriptor
	if err := s.writable(d); err != nil {
		b.elsewhere.Add(it.Path+".type", status.Convert(err).Message())
		return
	}
	if err := s.mayWrite(ctx, d); err != nil {
		b.forbidden.Add(it.Path+".type", status.Convert(err).Message())
		return
	}
	if it.Delete {
		b.deletes, b.deletePaths = append(b.deletes, &drop{it.Key}), append(b.deletePaths, it.Path)
		return
	}
	for _, w := range it.Input.Warnings {
		if len(b.warnings) < maxBatchWarnings {
			b.warnings = append(b.warnings, it.Path+": "+w)
		}
	}
	if v := agree(d, it.Key, it.Input); len(v) > 0 {
		b.within(&b.wrong, it.Path, v)
		return
	}
	p, err := s.newPut(ctx, d, it.Key, it.Input, b.dry)
	if err != nil {
		if b.large == nil {
			b.large = &itemError{it.Path, err}
		}
		return
	}
	if len(p.violations) > 0 {
		b.within(&b.wrong, it.Path, p.violations)
		return
	}
	switch d.Kind {
	case resource.KindMesh, resource.KindSecret, resource.KindGlobalSecret:
		// They are decided by what is in them.
	default:
		p.message = nil
	}
	b.puts, b.putPaths = append(b.puts, p), append(b.putPaths, it.Path)
}

// itemError is what a batch is refused for as a whole because of one item.
type itemError struct {
	path string
	err  error
}

// Error implements error.
func (e *itemError) Error() string { return e.path + " is " + e.err.Error() }

// Unwrap is for errors.Is.
func (e *itemError) Unwrap() error { return e.err }

// within adds what is wrong with an item.
func (b *batch) within(to *resource.Violations, path string, v resource.Violations) {
	for _, x := range v {
		to.Add(resource.Within(path, x.Field), x.Message)
	}
}

// refused is why a batch is not even decided on, given what reading it ended with.
func (b *batch) refused(undecoded error) error {
	var violations resource.Violations
	var syntax *resource.SyntaxError
	if undecoded == nil {
		undecoded = b.large
	}
	switch {
	case len(b.elsewhere) > 0:
		return withHTTP(fail(codes.FailedPrecondition, titleBatch, "Not all of it is written on this control plane", b.elsewhere...), http.StatusMethodNotAllowed)
	case len(b.forbidden) > 0:
		return fail(codes.PermissionDenied, titleBatch, "Not all of it may be written with these credentials", b.forbidden...)
	case errors.Is(undecoded, resource.ErrTooLarge):
		return withHTTP(fail(codes.ResourceExhausted, titleBatch, undecoded.Error()), http.StatusRequestEntityTooLarge)
	case errors.As(undecoded, &violations):
		b.within(&b.wrong, "", violations)
	case errors.As(undecoded, &syntax):
		return fail(codes.InvalidArgument, titleBatch, "Request body is malformed: "+syntax.Error())
	case undecoded != nil:
		return fail(codes.InvalidArgument, titleBatch, undecoded.Error())
	}
	if len(b.wrong) > 0 {
		return invalid(titleBatch, detailsBatch, b.wrong)
	}
	return nil
}

// decide decides all changes, and gathers what is wrong with them.
func (b *batch) decide(ctx context.Context, config, observed store.View, changes []change, paths []string) (decision, error) {
	var v resource.Violations
	missing := 0
	d, err := decideAll(ctx, config, observed, changes, true, func(i int, err error) error {
		st := status.Convert(err)
		switch st.Code() {
		case codes.NotFound:
			missing++
			v.Add(paths[i]+".name", "there is no "+changes[i].target().String())
		case codes.InvalidArgument:
			b.within(&v, paths[i], causes(st))
		default:
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return d, err
	case len(v) == 0:
		return d, nil
	case missing >= len(v):
		return d, fail(codes.NotFound, titleBatch, detailsNotFound, v...)
	}
	return d, invalid(titleBatch, detailsBatch, v)
}

// causes are what an error says is wrong, field by field.
func causes(st *status.Status) resource.Violations {
	var v resource.Violations
	for _, d := range st.Details() {
		if e, ok := d.(*apiv1.Error); ok {
			for _, c := range e.GetCauses() {
				v.Add(c.GetField(), c.GetMessage())
			}
		}
	}
	if len(v) == 0 {
		v.Add("", st.Message())
	}
	return v
}
