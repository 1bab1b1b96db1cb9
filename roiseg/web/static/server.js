// Requests to the server. A failure throws an Error with a message for the user, an aborted one an AbortError.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error ?? `The server answered ${response.status} ${response.statusText}`);
}

function post(path, content, signal) {
  return ask(path, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
}

export const models = async () => (await ask("models")).json();
export const open = async (file, signal) => (await ask("images", { method: "POST", body: file, signal })).json();
export const detect = async (query, signal) => (await post("detections", query, signal)).json();
export const predict = async (query, signal) => (await post("predictions", query, signal)).json();
export const mask = async (query) => (await post("masks", query)).blob();

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
