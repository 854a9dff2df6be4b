package resource

import "google.golang.org/protobuf/proto"

func defaultMesh(Key, proto.Message)      {}
func defaultDataplane(Key, proto.Message) {}

func validateMesh(Key, proto.Message) Violations              { return nil }
func validateDataplane(Key, proto.Message) Violations         { return nil }
func validateTrafficPermission(Key, proto.Message) Violations { return nil }
func validateTrafficRoute(Key, proto.Message) Violations      { return nil }
func validateTimeout(Key, proto.Message) Violations           { return nil }
func validateRetry(Key, proto.Message) Violations             { return nil }
func validateExternalService(Key, proto.Message) Violations   { return nil }
func validateZone(Key, proto.Message) Violations              { return nil }
