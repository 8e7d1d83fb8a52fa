// No function of the shim lets an exception pass: what was thrown is kept as text for whoever called.

#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

// The text of the last exception on this thread.
inline std::string& gpart_last_error_text() {
  static thread_local std::string text;
  return text;
}

// Does something; 1 where it throws.
template <typename Act>
int guarded(Act act) {
  try {
    act();
    return 0;
  } catch (const c10::Error& error) {
    gpart_last_error_text() = error.what_without_backtrace();
  } catch (const std::exception& error) {
    gpart_last_error_text() = error.what();
  } catch (...) {
    gpart_last_error_text() = "an exception without a text";
  }
  return 1;
}
