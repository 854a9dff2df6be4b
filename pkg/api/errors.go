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

// Titles and details of the published API.
const (
	titleGet     = "Could not retrieve a resource"
	titleList    = "Could not retrieve resources"
	titleProcess = "Could not process a resource"
	titleCreate  = "Could not create a resource"
	titleUpdate  = "Could not update a resource"
	titleDelete  = "Could not delete a resource"

	detailsInvalid  = "Resource is not valid"
	detailsNotFound = "Not found"
)

// fail makes an error that users see as JSON.
func fail(code codes.Code, title, details string, causes ...resource.Violation) error {
	e := &apiv1.Error{Title: title, Details: details}
	for _, c := range causes {
		e.Causes = append(e.Causes, &apiv1.Cause{Field: c.Field, Message: c.Message})
	}
	st := status.New(code, title+": "+details)
	with, err := st.WithDetails(e)
	if err != nil { // only for a code OK
		return st.Err()
	}
	return with.Err()
}

func invalid(title, details string, v resource.Violations) error {
	return fail(codes.InvalidArgument, title, details, v...)
}

func notFound(title string) error { return fail(codes.NotFound, title, detailsNotFound) }

// withHTTP says which HTTP status an error is where its code alone does not.
func withHTTP(err error, httpStatus uint32) error {
	st, derr := status.Convert(err).WithDetails(&apiv1.HTTPStatus{Code: httpStatus})
	if derr != nil {
		return err
	}
	return st.Err()
}

// notAllowed is a 405 with a sentence that says what to do instead.
func notAllowed(format string, args ...any) error {
	return withHTTP(status.Errorf(codes.FailedPrecondition, format, args...), http.StatusMethodNotAllowed)
}

func tooLarge(err error) error {
	return withHTTP(fail(codes.ResourceExhausted, titleProcess, "Resource is "+err.Error()), http.StatusRequestEntityTooLarge)
}

// bodyError turns what decoding a body ended with into an answer.
func bodyError(err error) error {
	var violations resource.Violations
	var syntax *resource.SyntaxError
	switch {
	case errors.Is(err, resource.ErrTooLarge):
		return tooLarge(err)
	case errors.As(err, &violations):
		return invalid(titleProcess, detailsInvalid, violations)
	case errors.As(err, &syntax):
		return fail(codes.InvalidArgument, titleProcess, "Request body is malformed: "+syntax.Error())
	}
	return fail(codes.InvalidArgument, titleProcess, err.Error())
}

// storeError turns a log's error into an answer.
func (s *Service) storeError(err error, title string) error {
	switch {
	case errors.Is(err, store.ErrConflict):
		return fail(codes.Aborted, title, "Others changed it at the same time, try again")
	case errors.Is(err, store.ErrNoSpace):
		return fail(codes.Unavailable, title, "No space is left to store it")
	case errors.Is(err, store.ErrClosed):
		return fail(codes.Unavailable, title, "The control plane is stopping")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	s.Logger.Error("store failed", "error", err)
	return status.Error(codes.Internal, err.Error())
}
