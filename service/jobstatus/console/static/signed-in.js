// The window to which the issuer comes back: it hands the code to the page that began, and closes.
//
// The page is found by the state, which it chose. A BroadcastChannel reaches pages of this origin only, and needs no
// opener, which the page's policy for other origins takes away.

const TAKEN = "taken";
const WAIT_MS = 5000;

const said = document.getElementById("said");
const answer = Object.fromEntries(new URLSearchParams(location.search));
history.replaceState(null, "", location.pathname); // neither the code nor the state stays in the address

function end(text) {
  said.textContent = text;
}

if (!answer.state) end("Nothing is to be done here. Open the console instead.");
else {
  const channel = new BroadcastChannel(`sign-in ${answer.state}`);
  const timer = setTimeout(() => end("No page waits for this sign-in any more. Begin again in the console."), WAIT_MS);
  channel.addEventListener("message", ({ data }) => {
    if (data !== TAKEN) return;
    clearTimeout(timer);
    channel.close();
    end("You can close this window and go back to the console.");
    close();
  });
  channel.postMessage(answer);
}
