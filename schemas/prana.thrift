/**
 * The Prana proxy: asks online services for the state of many contexts at once.
 *
 * Contexts and answers travel as Arrow IPC streams, each in one binary field: decoding nested Python objects
 * by Thrift is tens of times slower. `schemas/tables.py` has the Arrow schemas.
 */
namespace py schemas.generated

/** A typed name; `type` is an Arrow type's text, see schemas/arrow_types.py; `arrow`, where there, says it exactly. */
struct DataKeyInfo {
  1: required string name
  2: required string kind
  3: required string type
  /** An Arrow schema of one field as IPC, in base64: of a type that text does not say exactly, see schemas/type_records.py. */
  4: optional string arrow
  /** JSON of the defaults and older names of the type's fields, where there are any: see schemas/evolution. */
  5: optional string evolution
}

/** An online service: the element it answers with, and the context variables its answer depends on. */
struct ServiceInfo {
  1: required string name
  2: required DataKeyInfo element
  3: required list<DataKeyInfo> key
  /** What encoders get where there is but a fallback: absent, which it is if not said, or value. */
  4: optional string on_fallback
}

struct FetchRequest {
  1: required string service_name
  /** Arrow IPC stream with one row for each context and one column for each variable of the service's key. */
  2: required binary contexts
  /** Time left for the whole call. Relative, since clocks differ; an answer that comes later is a timeout. */
  3: required i32 budget_ms
}

struct FetchResponse {
  /**
   * Arrow IPC stream with one row for each context asked, in their order: status, captured_at, reason, value.
   * Where all would not fit into a frame it has the first ones, at least one: ask for the rest in another call.
   */
  1: required binary answers
  /** The proxy is busy: wait for so long before the next call. */
  2: optional i32 pause_ms
}

/** The call itself is wrong: an unknown service, contexts that lack its key. Asking again does not help. */
exception BadRequest {
  1: required string message
}

/** The proxy has no room now: ask again after this time. */
exception Overloaded {
  1: required string message
  2: required i32 retry_after_ms
}

/** The proxy wants a token that it knows, as the first call on every connection. */
exception Denied {
  1: required string message
}

service Prana {
  /** Says who is calling; a proxy that wants no tokens accepts any. */
  void authenticate(1: string token) throws (1: Denied denied)

  /** The services behind this proxy. */
  list<ServiceInfo> services() throws (1: Denied denied)

  /** One service's answers for many contexts. A context that fails says so in its own status. */
  FetchResponse fetch(1: FetchRequest request)
    throws (1: BadRequest bad_request, 2: Overloaded overloaded, 3: Denied denied)
}
